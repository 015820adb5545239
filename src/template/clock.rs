//! Dates as templates ask for them: `strftime_now(format)`.

use super::budget::Budget;
use super::text::{Buffer, Text};
use crate::error::Result;
use std::rc::Rc;

/// A moment of the calendar, without a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    year: i64,
    month: u32,
    day: u32,
    second: u32,
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAY_SECONDS: u32 = 86_400;

impl std::fmt::Display for DateTime {
    /// As [`DateTime::parse`] reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (hour, minute) = (self.second / 3600, self.second / 60 % 60);
        write!(
            f,
            "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{:02}",
            self.year,
            self.month,
            self.day,
            self.second % 60
        )
    }
}

/// Days since 1970-01-01, by years that begin in March: leap days are then at their ends.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * i64::from((month + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

impl DateTime {
    /// The moment so many seconds after the beginning of 1970 in UTC.
    pub fn from_unix(seconds: i64) -> DateTime {
        let days = seconds.div_euclid(i64::from(DAY_SECONDS)) + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        DateTime {
            year: era * 400 + year + i64::from(month <= 2),
            month: month as u32,
            day: (of_year - (153 * shifted + 2) / 5 + 1) as u32,
            second: seconds.rem_euclid(i64::from(DAY_SECONDS)) as u32,
        }
    }

    /// Reads `2026-01-15` (then it is noon), `2026-01-15T12:00` or `2026-01-15 12:00:00`.
    pub fn parse(text: &str) -> Option<DateTime> {
        let (date, time) = match text.split_once(['T', ' ']) {
            Some((date, time)) => (date, time),
            None => (text, "12:00:00"),
        };
        let number = |text: &str, digits: usize| {
            let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| text.parse::<u32>().ok()).flatten()
        };
        let mut date = date.splitn(3, '-');
        let year = number(date.next()?, 4)?;
        let month = number(date.next()?, 2)?;
        let day = number(date.next()?, 2)?;
        let mut time = time.splitn(3, ':');
        let hour = number(time.next()?, 2)?;
        let minute = number(time.next()?, 2)?;
        let second = number(time.next().unwrap_or("00"), 2)?;
        if year == 0 || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let found = DateTime {
            year: i64::from(year),
            month,
            day,
            second: hour * 3600 + minute * 60 + second,
        };
        let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
        // A day that the month does not have would become one of the next month.
        (valid && DateTime::from_unix(found.unix()) == found).then_some(found)
    }

    /// Noon of the same day, which is what a date alone means.
    pub fn noon(self) -> DateTime {
        DateTime {
            second: DAY_SECONDS / 2,
            ..self
        }
    }

    /// Seconds after the beginning of 1970 in UTC.
    pub fn unix(self) -> i64 {
        days_from_civil(self.year, self.month, self.day) * i64::from(DAY_SECONDS)
            + i64::from(self.second)
    }

    /// 0 is Sunday.
    fn weekday(self) -> u32 {
        (days_from_civil(self.year, self.month, self.day) + 4).rem_euclid(7) as u32
    }

    /// 1 is the first of January.
    fn year_day(self) -> u32 {
        let first = days_from_civil(self.year, 1, 1);
        (days_from_civil(self.year, self.month, self.day) - first + 1) as u32
    }

    /// The year and week of ISO 8601.
    fn iso_week(self) -> (i64, u32) {
        let weekday = i64::from((self.weekday() + 6) % 7);
        let thursday = days_from_civil(self.year, self.month, self.day) - weekday + 3;
        let year = DateTime::from_unix(thursday * i64::from(DAY_SECONDS)).year;
        let week = (thursday - days_from_civil(year, 1, 1)) / 7 + 1;
        (year, week as u32)
    }

    /// What `strftime` of the C locale makes of a format. The flags `-`, `_` and `0` of glibc are known; a directive that is not stays.
    ///
    /// # Errors
    /// Limit: memory or work.
    pub fn format(self, budget: &Rc<Budget>, format: &Text) -> Result<Text> {
        let text = format.as_str();
        let mut out = Buffer::new(budget);
        let (mut from, mut at) = (0, 0);
        while let Some(found) = text[at..].find('%') {
            at += found;
            let mut rest = text[at + 1..].chars();
            let mut directive = rest.next();
            let flag = directive.filter(|c| matches!(c, '-' | '_' | '0'));
            if flag.is_some() {
                directive = rest.next();
            }
            let stop = text.len() - rest.as_str().len();
            if let Some(shown) = directive.and_then(|d| self.directive(d, flag)) {
                out.part(format, from..at)?;
                out.plain(&shown)?;
                from = stop;
            }
            at = stop;
        }
        out.part(format, from..text.len())?;
        out.finish()
    }

    fn directive(self, directive: char, flag: Option<char>) -> Option<String> {
        let (hour, minute, second) = (self.second / 3600, self.second / 60 % 60, self.second % 60);
        let twelve = (hour + 11) % 12 + 1;
        let (weekday, year_day) = (self.weekday(), self.year_day());
        let day_name = DAYS[weekday as usize];
        let month_name = MONTHS[(self.month as usize + 11) % 12];
        let pad = |n: i64, width: usize, usual: char| match flag.unwrap_or(usual) {
            '-' => n.to_string(),
            '_' => format!("{n:width$}"),
            _ => format!("{n:0width$}"),
        };
        let two = |n: u32| pad(i64::from(n), 2, '0');
        let all = |parts: &[char]| -> Option<String> {
            let shown = parts.iter().map(|&c| match c.is_ascii_alphabetic() {
                true => self.directive(c, None),
                false => Some(c.to_string()),
            });
            shown.collect()
        };
        Some(match directive {
            'Y' => pad(self.year, 1, '-'),
            'C' => pad(self.year.div_euclid(100), 2, '0'),
            'y' => pad(self.year.rem_euclid(100), 2, '0'),
            'm' => two(self.month),
            'd' => two(self.day),
            'e' => pad(i64::from(self.day), 2, '_'),
            'H' => two(hour),
            'k' => pad(i64::from(hour), 2, '_'),
            'I' => two(twelve),
            'l' => pad(i64::from(twelve), 2, '_'),
            'M' => two(minute),
            'S' => two(second),
            'f' => "000000".to_owned(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'P' => if hour < 12 { "am" } else { "pm" }.to_owned(),
            'j' => pad(i64::from(year_day), 3, '0'),
            'a' => day_name.get(..3)?.to_owned(),
            'A' => day_name.to_owned(),
            'b' | 'h' => month_name.get(..3)?.to_owned(),
            'B' => month_name.to_owned(),
            'w' => weekday.to_string(),
            'u' => ((weekday + 6) % 7 + 1).to_string(),
            'U' => two((year_day + 6 - weekday) / 7),
            'W' => two((year_day + 6 - (weekday + 6) % 7) / 7),
            'G' => self.iso_week().0.to_string(),
            'V' => two(self.iso_week().1),
            's' => self.unix().to_string(),
            'F' => all(&['Y', '-', 'm', '-', 'd'])?,
            'D' | 'x' => all(&['m', '/', 'd', '/', 'y'])?,
            'T' | 'X' => all(&['H', ':', 'M', ':', 'S'])?,
            'R' => all(&['H', ':', 'M'])?,
            'r' => all(&['I', ':', 'M', ':', 'S', ' ', 'p'])?,
            'c' => all(&['a', ' ', 'b', ' ', 'e', ' ', 'T', ' ', 'Y'])?,
            // The moment has no zone.
            'z' | 'Z' => String::new(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(moment: &str, format: &str) -> String {
        let budget = Budget::new(0);
        let format = Text::plain(&budget, format).unwrap();
        let moment = DateTime::parse(moment).unwrap();
        moment.format(&budget, &format).unwrap().as_str().to_owned()
    }

    #[test]
    fn formats() {
        assert_eq!(
            shown("2026-01-15", "%d %b %Y, %H:%M:%S"),
            "15 Jan 2026, 12:00:00"
        );
        assert_eq!(
            shown("2026-01-05", "%B %-d, %Y|%e|%_m|%q%"),
            "January 5, 2026| 5| 1|%q%"
        );
        assert_eq!(
            shown("2026-01-15T09:05", "%A %I:%M %p %j %U %V %u"),
            "Thursday 09:05 AM 015 02 03 4"
        );
        assert_eq!(
            shown("2024-12-30 23:59:59", "%G-W%V %c"),
            "2025-W01 Mon Dec 30 23:59:59 2024"
        );
        assert_eq!(shown("2024-02-29", "%F %y%%"), "2024-02-29 24%");
    }

    #[test]
    fn moments() {
        assert_eq!(
            DateTime::from_unix(0),
            DateTime::parse("1970-01-01T00:00").unwrap()
        );
        assert_eq!(
            DateTime::from_unix(1_768_478_400),
            DateTime::parse("2026-01-15").unwrap()
        );
        assert_eq!(DateTime::from_unix(-1).year, 1969);
        for wrong in [
            "2026-02-29",
            "2026-13-01",
            "26-01-01",
            "2026-01-15T24:00",
            "2026-01-15 1:2",
            "",
            "x",
        ] {
            assert_eq!(DateTime::parse(wrong), None, "{wrong:?}");
        }
    }
}
