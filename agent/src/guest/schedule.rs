//! Hours of the week, as a person writes them: `Mon-Fri 09:00-18:00`, `Sat 22:00-02:00`, `08:00-20:00`.

use std::fmt;
use std::str::FromStr;

use jiff::ZonedDateTime;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: u32 = 24 * 60;

/// A moment of the week, local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// 0 is Monday.
    pub weekday: u32,
    /// Since midnight.
    pub minute: u32,
}

impl Local {
    /// By the machine's clock and time zone. Only drivers at the edge call this.
    pub fn now() -> Self {
        let now = ZonedDateTime::now();
        let part = |value: i8| u32::try_from(value).unwrap_or(0);
        let weekday = part(now.weekday().to_monday_zero_offset());
        Self { weekday, minute: part(now.hour()) * 60 + part(now.minute()) }
    }
}

/// The same hours of one or more days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    text: String,
    days: [bool; 7],
    from: u32,
    /// At or before `from`: on the next day.
    to: u32,
}

/// Text that is no [`Span`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write days and hours as in `Mon-Fri 09:00-18:00` or `Sat 22:00-02:00`")]
pub struct SpanError;

impl Span {
    /// Whether `now` is in it; its end is not.
    pub fn holds(&self, now: Local) -> bool {
        let (today, yesterday) =
            (self.days[now.weekday as usize % 7], self.days[(now.weekday as usize + 6) % 7]);
        if self.from < self.to {
            today && (self.from..self.to).contains(&now.minute)
        } else {
            (today && now.minute >= self.from) || (yesterday && now.minute < self.to)
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours) = match words[..] {
            [hours] => ([true; 7], hours),
            [days, hours] => (parse_days(days)?, hours),
            _ => return Err(SpanError),
        };
        let (from, to) = hours.split_once('-').ok_or(SpanError)?;
        let (from, to) = (parse_minute(from)?, parse_minute(to)?);
        if from == DAY {
            return Err(SpanError);
        }
        Ok(Self { text: words.join(" "), days, from, to })
    }
}

fn parse_days(text: &str) -> Result<[bool; 7], SpanError> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).ok_or(SpanError);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (mut at, last) = (day(first)?, day(last)?);
    let mut days = [false; 7];
    loop {
        days[at] = true;
        if at == last {
            return Ok(days);
        }
        at = (at + 1) % 7;
    }
}

fn parse_minute(text: &str) -> Result<u32, SpanError> {
    let (hour, minute) = text.split_once(':').ok_or(SpanError)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| SpanError);
    let (hour, minute) = (number(hour)?, number(minute)?);
    if hour > 24 || minute > 59 || (hour == 24 && minute > 0) {
        return Err(SpanError);
    }
    Ok(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str, weekday: u32, hour: u32, minute: u32) -> bool {
        text.parse::<Span>().unwrap().holds(Local { weekday, minute: hour * 60 + minute })
    }

    #[test]
    fn working_hours_hold_on_working_days_up_to_their_end() {
        let text = "Mon-Fri 09:00-18:00";
        assert!(holds(text, 0, 9, 0) && holds(text, 4, 17, 59));
        assert!(!holds(text, 0, 8, 59) && !holds(text, 4, 18, 0) && !holds(text, 5, 12, 0));
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        let text = "sat 22:00-02:00";
        assert!(holds(text, 5, 23, 0) && holds(text, 6, 1, 59));
        assert!(!holds(text, 5, 1, 0) && !holds(text, 6, 2, 0) && !holds(text, 6, 22, 0));
    }

    #[test]
    fn days_go_round_the_week_and_may_be_left_out() {
        assert!(holds("Sat-Mon 10:00-11:00", 6, 10, 30) && holds("Sat-Mon 10:00-11:00", 0, 10, 30));
        assert!(!holds("Sat-Mon 10:00-11:00", 1, 10, 30));
        assert!(holds("00:00-24:00", 3, 23, 59) && holds("00:00-24:00", 3, 0, 0));
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "Mon",
            "Mon-Fri",
            "Mon 9-18",
            "Mon 09:00",
            "Mon 09:60-10:00",
            "Mon 25:00-26:00",
            "Mo 09:00-10:00",
        ] {
            assert_eq!(text.parse::<Span>(), Err(SpanError), "{text}");
        }
    }
}
