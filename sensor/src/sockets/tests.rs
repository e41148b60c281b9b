//! The sensor's end, with the test in the helper's place.

use super::*;
use crate::container::Told;

const SECOND_NS: u64 = 1_000_000_000;

/// The sensor's end and the helper's.
pub(crate) fn bench() -> (Sockets, UnixDatagram) {
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
pub(crate) fn asked(helper: &UnixDatagram) -> Vec<Text> {
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

/// Answers in the helper's place.
pub(crate) fn answer(helper: &UnixDatagram, id: &Text, answer: SocketAnswer) {
    send(helper, &Reply::Told(id.clone(), answer)).unwrap();
}

#[test]
fn a_container_is_asked_about_once_and_few_at_a_time() {
    let (mut sockets, helper) = bench();
    sockets.ask(question("0"), 0);
    assert!(sockets.answers_soon(0) && !sockets.answers_soon(2 * SECOND_NS));
    for number in 0..40 {
        for _ in 0..2 {
            sockets.ask(question(&number.to_string()), 0);
        }
    }
    let first = asked(&helper);
    assert_eq!(first.len(), UNDER_WAY_MAX);
    assert!(!sockets.answers_soon(0), "who is new is behind others");
    for id in &first {
        answer(&helper, id, told(id));
    }
    // Of nobody, and twice.
    answer(&helper, &"x".into(), told("x"));
    answer(&helper, &first[0], told("y"));
    let answers = sockets.answers(SECOND_NS);
    let expected: Vec<_> = first.iter().map(|id| (id.clone(), told(id))).collect();
    assert_eq!(answers, expected);
    let second = asked(&helper);
    assert_eq!(second.len(), UNDER_WAY_MAX);
    for id in &second {
        answer(&helper, id, told(id));
    }
    sockets.answers(SECOND_NS);
    assert!(sockets.answers_soon(SECOND_NS), "nobody waits");
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
    answer(&helper, &"a".into(), told("a"));
    answer(&helper, &"b".into(), told("b"));
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
        // A program that another test starts at this moment has the other end open until it runs.
        let end = Instant::now() + Duration::from_secs(10);
        let mut answers = sockets.answers(0);
        while answers.is_empty() && Instant::now() < end {
            answers = sockets.answers(0);
        }
        assert_eq!(answers.len(), 20);
        let ended = SocketAnswer::Failed(ENDED.into());
        assert!(answers.iter().all(|(_, answer)| *answer == ended));
        sockets.ask(question("later"), 0);
        assert_eq!(sockets.answers(0), [("later".into(), ended)]);
        assert!(!sockets.answers_soon(0));
    }
}
