//! Secrets by their form, or by what stands before them in a text.

/// Words that name a secret when they end an option's or a variable's name.
const SECRET_NAMES: &str = "passw(?:or)?d|pwd|passphrase|secret|token|api[_-]?key|access[_-]?key|secret[_-]?key|private[_-]?key|credentials?";

/// A value behind a secret's name: quoted, or up to the next blank or separator.
const VALUE: &str = r#"(?:"(?<quoted>[^"]*)"|'(?<single>[^']*)'|(?<secret>[^\s"'&;,|)<>`]+))"#;

/// Names and expressions. A name must not end like a secret's: it stands in the mark, before a colon.
const TEXTS: [(&str, &str); 13] = [
    (
        "auth_header",
        r#"(?i)\b(?:proxy-)?authorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|token|digest|apikey)\s+)?(?<secret>[^\s"']+)"#,
    ),
    ("bearer", r"(?i)\bbearer\s+(?<secret>[a-z0-9._~+/=-]{8,})"),
    (
        "header",
        r#"(?i)\b(?:x-api-key|x-auth-token|private-token|x-vault-token|set-cookie|cookie)\s*:\s*(?<secret>[^"']+)"#,
    ),
    (
        "address",
        r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/:@]*:(?<secret>[^\s@]+)@",
    ),
    // A hook's address is all that is needed to use it.
    (
        "hook",
        r"(?i)\bhooks\.slack\.com/(?:services|workflows|triggers)/(?<secret>[A-Za-z0-9/_-]+)",
    ),
    (
        "hook",
        r"(?i)\bdiscord(?:app)?\.com/api/webhooks/(?<secret>[A-Za-z0-9/_-]+)",
    ),
    ("cloud_id", r"\b(?<secret>(?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    (
        "prefix",
        r"\b(?<secret>(?:gh[opusr]_|github_pat_|glpat-|xox[abeprs]-|xapp-|sk_live_|rk_live_|sk-ant-|npm_|pypi-|dop_v1_|glsa_|hv[sbr]\.|ya29\.|SG\.)[A-Za-z0-9._-]{16,})",
    ),
    ("prefix", r"\b(?<secret>AIza[A-Za-z0-9_-]{35})"),
    (
        "jwt",
        r"\b(?<secret>eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)",
    ),
    (
        "pem",
        r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----(?<secret>.+?)(?:-----END|$)",
    ),
    (
        "literal",
        r#"--from-literal[= ]["']?[^\s=]+=(?:"(?<quoted>[^"]*)"|'(?<single>[^']*)'|(?<secret>[^\s"']+))"#,
    ),
    (
        "signature",
        r"(?i)[?&](?:sig|x-amz-signature)=(?<secret>[^\s&]+)",
    ),
];

/// All of them, those by a secret's name last: they take less of a header than its own rule.
pub(super) fn usual() -> Vec<(String, String)> {
    let named =
        format!(r#"(?i)(?:\b|_|--?)[a-z0-9_.-]*(?:{SECRET_NAMES})\d*["']?\s*[=:]\s*{VALUE}"#);
    let option = format!(r"(?i)(?:^|\s)--?[a-z0-9_-]*(?:{SECRET_NAMES})\s+{VALUE}");
    let texts = TEXTS.map(|(name, pattern)| (name.to_owned(), pattern.to_owned()));
    let by_name = [
        ("assignment".to_owned(), named),
        ("option".to_owned(), option),
    ];
    texts.into_iter().chain(by_name).collect()
}

/// An option whose value, the next argument, is a secret.
pub(super) fn secret_option() -> String {
    format!("(?i)^--?(?:[a-z0-9_-]*[_-])?(?:{SECRET_NAMES})$")
}

/// A word that is a secret's name and nothing else, as in `configure set aws_secret_access_key`.
pub(super) fn secret_name() -> String {
    format!("(?i)^[^-=][^=]*(?:{SECRET_NAMES})$|(?i)^(?:{SECRET_NAMES})$")
}

/// `$NAME`, `${…}` and `$(…)`, which the shell replaces.
pub(super) fn is_reference(value: &str) -> bool {
    let behind = value.strip_prefix('$').and_then(|rest| rest.chars().next());
    behind.is_some_and(|c| c == '(' || c == '{' || c == '_' || c.is_ascii_alphabetic())
}
