//! Hours of the week, as a person writes them: `Mon-Fri 09:00-18:00`, `Sat 22:00-02:00`, `08:00-20:00`.

use std::fmt;
use std::str::FromStr;

use jiff::ZonedDateTime;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: u32 = 24 * 60;

/// A moment of the week, local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// Days since Monday.
    pub weekday: u32,
    /// Minutes since midnight.
    pub minute: u32,
}

impl LocalTime {
    /// The moment by the machine's clock and time zone. Only the GPU monitor calls this.
    pub fn now() -> Self {
        let now = ZonedDateTime::now();
        let part = |value: i8| u32::try_from(value).unwrap_or(0);
        let weekday = part(now.weekday().to_monday_zero_offset());
        Self { weekday, minute: part(now.hour()) * 60 + part(now.minute()) }
    }
}

/// The same hours of one or more days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerHours {
    text: String,
    days: [bool; 7],
    /// Minutes since midnight.
    from: u32,
    /// Minutes since midnight; at or before `from` it is on the next day.
    to: u32,
}

/// Text that is no [`OwnerHours`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write days and hours as in `Mon-Fri 09:00-18:00` or `Sat 22:00-02:00`")]
pub struct OwnerHoursError;

impl OwnerHours {
    /// Whether `now` is in these hours; their end is not.
    pub fn contain(&self, now: LocalTime) -> bool {
        let (today, yesterday) =
            (self.days[now.weekday as usize % 7], self.days[(now.weekday as usize + 6) % 7]);
        if self.from < self.to {
            today && (self.from..self.to).contains(&now.minute)
        } else {
            (today && now.minute >= self.from) || (yesterday && now.minute < self.to)
        }
    }
}

impl fmt::Display for OwnerHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for OwnerHours {
    type Err = OwnerHoursError;

    fn from_str(text: &str) -> Result<Self, OwnerHoursError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours) = match words[..] {
            [hours] => ([true; 7], hours),
            [days, hours] => (parse_days(days)?, hours),
            _ => return Err(OwnerHoursError),
        };
        let (from, to) = hours.split_once('-').ok_or(OwnerHoursError)?;
        let (from, to) = (parse_minute(from)?, parse_minute(to)?);
        if from == DAY {
            return Err(OwnerHoursError);
        }
        Ok(Self { text: words.join(" "), days, from, to })
    }
}

fn parse_days(text: &str) -> Result<[bool; 7], OwnerHoursError> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name)).ok_or(OwnerHoursError);
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

fn parse_minute(text: &str) -> Result<u32, OwnerHoursError> {
    let (hour, minute) = text.split_once(':').ok_or(OwnerHoursError)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| OwnerHoursError);
    let (hour, minute) = (number(hour)?, number(minute)?);
    if hour > 24 || minute > 59 || (hour == 24 && minute > 0) {
        return Err(OwnerHoursError);
    }
    Ok(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contain(text: &str, weekday: u32, hour: u32, minute: u32) -> bool {
        text.parse::<OwnerHours>().unwrap().contain(LocalTime { weekday, minute: hour * 60 + minute })
    }

    #[test]
    fn working_hours_hold_on_working_days_up_to_their_end() {
        let text = "Mon-Fri 09:00-18:00";
        assert!(contain(text, 0, 9, 0) && contain(text, 4, 17, 59));
        assert!(!contain(text, 0, 8, 59) && !contain(text, 4, 18, 0) && !contain(text, 5, 12, 0));
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        let text = "sat 22:00-02:00";
        assert!(contain(text, 5, 23, 0) && contain(text, 6, 1, 59));
        assert!(!contain(text, 5, 1, 0) && !contain(text, 6, 2, 0) && !contain(text, 6, 22, 0));
    }

    #[test]
    fn days_go_round_the_week_and_may_be_left_out() {
        assert!(contain("Sat-Mon 10:00-11:00", 6, 10, 30) && contain("Sat-Mon 10:00-11:00", 0, 10, 30));
        assert!(!contain("Sat-Mon 10:00-11:00", 1, 10, 30));
        assert!(contain("00:00-24:00", 3, 23, 59) && contain("00:00-24:00", 3, 0, 0));
    }

    #[test]
    fn texts_that_are_no_hours_are_refused() {
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
            assert_eq!(text.parse::<OwnerHours>(), Err(OwnerHoursError), "{text}");
        }
    }
}
