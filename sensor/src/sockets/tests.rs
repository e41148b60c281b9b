//! The sensor's end, with the test in the helper's place.

use super::*;
use crate::container::Told;

const SECOND_NS: u64 = 1_000_000_000;

fn bench() -> (Sockets, UnixDatagram) {
    let (own, other) = pair().unwrap();
    let child = Command::new("true").spawn().unwrap();
    let other = UnixDatagram::from(other);
    other.set_nonblocking(true).unwrap();
    (Sockets::over(own, Vec::new(), child).unwrap(), other)
}

fn question(id: &str) -> Question {
    Question {
        id: id.into(),
        protocol: None,
        repository: None,
    }
}

/// The ids that are asked about by now.
fn asked(helper: &UnixDatagram) -> Vec<Text> {
    let about = || match receive(helper) {
        Ok(Some(Request::About(question))) => Some(question.id),
        _ => None,
    };
    std::iter::from_fn(about).collect()
}

fn told(name: &str) -> SocketAnswer {
    SocketAnswer::Known(Box::new(Told {
        name: Some(name.into()),
        ..Told::default()
    }))
}

#[test]
fn a_container_is_asked_about_once_and_few_at_a_time() {
    let (mut sockets, helper) = bench();
    for number in 0..40 {
        for _ in 0..2 {
            sockets.ask(question(&number.to_string()), 0);
        }
    }
    let first = asked(&helper);
    assert_eq!(first.len(), UNDER_WAY_MAX);
    assert!(sockets.answers_soon(0) && !sockets.answers_soon(2 * SECOND_NS));
    for id in &first {
        send(&helper, &Reply::Told(id.clone(), told(id))).unwrap();
    }
    // Of nobody, and twice.
    send(&helper, &Reply::Told("x".into(), told("x"))).unwrap();
    send(&helper, &Reply::Told(first[0].clone(), told("y"))).unwrap();
    let answers = sockets.answers(SECOND_NS);
    let expected: Vec<_> = first.iter().map(|id| (id.clone(), told(id))).collect();
    assert_eq!(answers, expected);
    assert_eq!(asked(&helper).len(), UNDER_WAY_MAX);
    assert!(sockets.answers_soon(SECOND_NS));
}

#[test]
fn a_question_without_an_answer_ends_and_nobody_waits_for_the_next() {
    let (mut sockets, helper) = bench();
    sockets.ask(question("a"), 0);
    assert!(sockets.answers(UNANSWERED_NS - 1).is_empty());
    let lost = SocketAnswer::Failed(UNANSWERED.into());
    assert_eq!(sockets.answers(UNANSWERED_NS), [("a".into(), lost)]);
    assert!(!sockets.answers_soon(UNANSWERED_NS));
    sockets.ask(question("b"), UNANSWERED_NS);
    assert_eq!(asked(&helper), ["a".into(), Text::from("b")]);
    // Its answer comes late: it is about nothing any more.
    send(&helper, &Reply::Told("a".into(), told("a"))).unwrap();
    send(&helper, &Reply::Told("b".into(), told("b"))).unwrap();
    assert_eq!(sockets.answers(UNANSWERED_NS), [("b".into(), told("b"))]);
    assert!(sockets.answers_soon(UNANSWERED_NS));
}

#[test]
fn what_was_asked_of_a_process_that_ended_says_so() {
    for damaged in [false, true] {
        let (mut sockets, helper) = bench();
        for number in 0..20 {
            sockets.ask(question(&number.to_string()), 0);
        }
        match damaged {
            true => _ = helper.send(b"{").unwrap(),
            false => drop(helper),
        }
        let answers = sockets.answers(0);
        assert_eq!(answers.len(), 20);
        let ended = SocketAnswer::Failed(ENDED.into());
        assert!(answers.iter().all(|(_, answer)| *answer == ended));
        sockets.ask(question("later"), 0);
        assert_eq!(sockets.answers(0), [("later".into(), ended)]);
        assert!(!sockets.answers_soon(0));
    }
}
