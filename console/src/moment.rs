//! Times on the command line: a span before now, or a moment.

use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, Utc};

/// What is accepted, for whoever wrote something else.
const ACCEPTED: &str = "give a time span such as 1h or 2days, or a time such as 2026-01-31T12:00:00Z or '2026-01-31 12:00' (UTC)";

/// The moment that a text means: so long ago, or a time.
///
/// # Errors
/// What is accepted, for the command line.
pub fn moment(text: &str) -> Result<DateTime<Utc>, String> {
    if let Some((moment, _)) = written(text) {
        return Ok(moment);
    }
    let span = humantime::parse_duration(text).map_err(|error| format!("{error}; {ACCEPTED}"))?;
    let span = Duration::from_std(span).map_err(|error| error.to_string())?;
    Utc::now()
        .checked_sub_signed(span)
        .ok_or_else(|| format!("{text} ago is before all time"))
}

/// How far another clock may be ahead of this one.
const AHEAD_MAX: Duration = Duration::minutes(5);

/// The moment to begin with, which is not to come.
///
/// # Errors
/// As [`moment`], and of a time that lies ahead.
pub fn begin(text: &str) -> Result<DateTime<Utc>, String> {
    let moment = moment(text)?;
    let now = Utc::now();
    if moment > now + AHEAD_MAX {
        let now = now.format("%Y-%m-%dT%H:%M:%SZ");
        return Err(format!("that is to come: it is {now} now; {ACCEPTED}"));
    }
    Ok(moment)
}

/// A span of time.
///
/// # Errors
/// What is accepted, for the command line.
pub fn span(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; give a time span such as 10s or 5m"))
}

/// The stretch that a written time names: a day, a minute or a second, as far as it is written.
///
/// # Errors
/// What is accepted, for the command line.
pub fn stretch(text: &str) -> Result<(DateTime<Utc>, DateTime<Utc>), String> {
    let Some((begin, length)) = written(text) else {
        return Err(
            "give a time such as '2026-01-31 12:00' (that minute, UTC) or 2026-01-31T12:00:05Z"
                .to_owned(),
        );
    };
    Ok((begin, begin + length))
}

/// A written time, and how exactly it is written.
fn written(text: &str) -> Option<(DateTime<Utc>, Duration)> {
    let text = text.trim();
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some((moment.to_utc(), Duration::seconds(1)));
    }
    let bare = text.strip_suffix('Z').unwrap_or(text).replacen('T', " ", 1);
    let forms = [
        ("%Y-%m-%d %H:%M:%S%.f", Duration::seconds(1)),
        ("%Y-%m-%d %H:%M", Duration::minutes(1)),
    ];
    for (form, length) in forms {
        if let Ok(moment) = NaiveDateTime::parse_from_str(&bare, form) {
            return Some((moment.and_utc(), length));
        }
    }
    let day = NaiveDate::parse_from_str(&bare, "%Y-%m-%d").ok()?;
    Some((day.and_hms_opt(0, 0, 0)?.and_utc(), Duration::days(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_span_or_a_time() {
        let ago = Utc::now() - moment("90m").unwrap();
        assert!((ago - Duration::minutes(90)).num_seconds().abs() < 5);
        let check = |text: &str, expected: &str| {
            assert_eq!(moment(text).unwrap().to_rfc3339(), expected, "{text}");
        };
        check("2026-01-31T12:00:00+01:00", "2026-01-31T11:00:00+00:00");
        check("2026-01-31 12:00", "2026-01-31T12:00:00+00:00");
        check("2026-01-31T12:00:07Z", "2026-01-31T12:00:07+00:00");
        check("2026-01-31", "2026-01-31T00:00:00+00:00");
        let said = moment("yesterday").unwrap_err();
        assert!(
            said.contains("1h or 2days, or a time such as 2026-01-31T12:00:00Z"),
            "{said}"
        );
        assert!(moment("999999999999days").is_err());
        for nonsense in ["-1h", "1", "h", "", "2026-13-01", "now"] {
            let said = moment(nonsense).unwrap_err();
            assert!(said.contains(ACCEPTED), "{nonsense}: {said}");
        }
    }

    #[test]
    fn what_is_to_come_is_no_begin() {
        let said = begin("2999-01-01").unwrap_err();
        assert!(said.starts_with("that is to come: it is "), "{said}");
        assert!(begin("1h").is_ok() && begin("2020-01-01").is_ok());
    }

    #[test]
    fn a_span_is_told_how_it_is_written() {
        assert_eq!(span("1m 30s"), Ok(std::time::Duration::from_secs(90)));
        for nonsense in ["-1s", "10", "ten seconds", ""] {
            let said = span(nonsense).unwrap_err();
            assert!(said.ends_with("such as 10s or 5m"), "{nonsense}: {said}");
        }
    }

    #[test]
    fn a_stretch_is_as_long_as_its_time_is_written() {
        let check = |text: &str, seconds: i64| {
            let (begin, end) = stretch(text).unwrap();
            assert_eq!((end - begin).num_seconds(), seconds, "{text}");
        };
        check("2026-01-31 12:00", 60);
        check("2026-01-31 12:00:05", 1);
        check("2026-01-31T12:00:05Z", 1);
        check("2026-01-31", 86_400);
        assert!(stretch("1h").unwrap_err().contains("that minute"));
    }
}
