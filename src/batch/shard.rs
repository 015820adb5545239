//! One of several runs that share an input: which records are its own.
//!
//! Records are dealt out in turn, so every shard gets as many as any other or one more, and none needs to know how many there are.

use crate::error::{Error, Result};

/// Shard `number` of `of`, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one.
    pub number: u64,
    /// How many there are.
    pub of: u64,
}

/// `--shard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Given(Shard),
    /// The one that the surroundings say, of so many if they do not say that.
    Auto(Option<u64>),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected K/N with K from 1 to N, auto, or auto/N";
        let number = |text: &str| text.parse::<u64>().ok().filter(|n| *n > 0);
        if text == "auto" {
            return Ok(Choice::Auto(None));
        }
        let (k, n) = text.split_once('/').ok_or(expected)?;
        let of = number(n).ok_or(expected)?;
        if k == "auto" {
            return Ok(Choice::Auto(Some(of)));
        }
        let number = number(k).filter(|k| *k <= of).ok_or(expected)?;
        Ok(Choice::Given(Shard { number, of }))
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl Shard {
    /// Whether the record at this index of the input is its own.
    pub fn has(&self, index: u64) -> bool {
        index % self.of == self.number - 1
    }

    /// How many of so many records are its own.
    pub fn share(&self, records: u64) -> u64 {
        records / self.of + u64::from(self.number <= records % self.of)
    }
}

impl Choice {
    /// The shard that is meant, where variables of the surroundings have these values.
    ///
    /// # Errors
    /// Usage: nothing says which shard it is, or how many there are, or both do not fit.
    pub fn resolve(self, variable: impl Fn(&str) -> Option<String>) -> Result<Shard> {
        let of = match self {
            Choice::Given(shard) => return Ok(shard),
            Choice::Auto(of) => of,
        };
        let value = |name: &str| {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let number = text.parse::<u64>();
            number
                .map(Some)
                .map_err(|_| Error::usage(format_args!("{name} is {text:?}, expected a number")))
        };
        let found = if let Some(task) = value("SLURM_ARRAY_TASK_ID")? {
            let first = value("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = value("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let index = task.checked_sub(first).map(|n| n / step);
            (
                "SLURM_ARRAY_TASK_ID",
                index,
                value("SLURM_ARRAY_TASK_COUNT")?,
            )
        } else if let Some(index) = value("AWS_BATCH_JOB_ARRAY_INDEX")? {
            let size = value("AWS_BATCH_JOB_ARRAY_SIZE")?;
            ("AWS_BATCH_JOB_ARRAY_INDEX", Some(index), size)
        } else if let Some(index) = value("JOB_COMPLETION_INDEX")? {
            ("JOB_COMPLETION_INDEX", Some(index), None)
        } else {
            return Err(Error::usage(
                "--shard auto finds none of SLURM_ARRAY_TASK_ID, AWS_BATCH_JOB_ARRAY_INDEX and JOB_COMPLETION_INDEX: give --shard K/N",
            ));
        };
        let (name, index, size) = found;
        let of = of.or(size).ok_or_else(|| {
            Error::usage(format_args!(
                "{name} says which shard this is, but nothing says of how many: give --shard auto/N"
            ))
        })?;
        match index {
            Some(index) if index < of => Ok(Shard {
                number: index + 1,
                of,
            }),
            _ => Err(Error::usage(format_args!(
                "{name} means shard {}, but there are {of}",
                index.map_or("0".to_owned(), |i| i.saturating_add(1).to_string())
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(text: &str, variables: &[(&str, &str)]) -> Result<String> {
        let choice: Choice = text.parse().expect("a choice");
        let find = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        choice.resolve(find).map(|shard| shard.to_string())
    }

    #[test]
    fn shards_are_spelled_and_shared_out() {
        for wrong in [
            "", "1", "0/3", "4/3", "1/0", "-1/3", "a/3", "auto/0", "auto/",
        ] {
            assert!(wrong.parse::<Choice>().is_err(), "{wrong}");
        }
        for records in 0..20 {
            for of in 1..6 {
                let shards = (1..=of).map(|number| Shard { number, of });
                let mut sum = 0;
                for shard in shards {
                    let own = (0..records).filter(|i| shard.has(*i)).count();
                    assert_eq!(own as u64, shard.share(records), "{shard} of {records}");
                    sum += shard.share(records);
                }
                assert_eq!(sum, records);
            }
        }
    }

    #[test]
    fn surroundings_say_which_shard_it_is() {
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "14"),
            ("SLURM_ARRAY_TASK_MIN", "10"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
            ("SLURM_ARRAY_TASK_COUNT", "5"),
        ];
        assert_eq!(auto("auto", &slurm).unwrap(), "3/5");
        assert_eq!(auto("2/5", &slurm).unwrap(), "2/5");
        let aws = [
            ("AWS_BATCH_JOB_ARRAY_INDEX", "0"),
            ("AWS_BATCH_JOB_ARRAY_SIZE", "4"),
        ];
        assert_eq!(auto("auto", &aws).unwrap(), "1/4");
        let kubernetes = [("JOB_COMPLETION_INDEX", "7")];
        assert_eq!(auto("auto/8", &kubernetes).unwrap(), "8/8");
        for (text, variables, part) in [
            ("auto", &kubernetes[..], "give --shard auto/N"),
            ("auto/7", &kubernetes, "means shard 8, but there are 7"),
            ("auto", &[], "give --shard K/N"),
            ("auto/3", &[("JOB_COMPLETION_INDEX", "x")], "\"x\""),
            (
                "auto/3",
                &[("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_MIN", "2")],
                "SLURM_ARRAY_TASK_ID",
            ),
        ] {
            let e = auto(text, variables).unwrap_err();
            assert_eq!(e.exit_code(), 2);
            assert!(e.to_string().contains(part), "{e}");
        }
    }
}
