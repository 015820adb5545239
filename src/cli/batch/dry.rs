//! `--dry-run`: every record is read, rendered and tokenized, and none is run.

use super::prepare::Desk;
use super::{Args, SummaryFile, outcome};
use crate::batch::Failure;
use crate::batch::feed::{Prepare, Settings, Status};
use crate::batch::identity::short_hash;
use crate::batch::lines::{Found, Input};
use crate::batch::record::{self, Shape, Work};
use crate::cli::output;
use crate::error::Result;
use crate::json;
use serde_json::json;
use std::collections::HashSet;
use std::time::Duration;

/// So many failures are told one by one.
const TOLD: u64 = 20;

/// Checks all records and says what they are.
pub(super) fn run(
    settings: Settings,
    mut input: Input,
    desk: &mut Desk,
    args: &Args,
    summary: SummaryFile,
) -> Result<()> {
    let mut status = Status::default();
    let mut names = HashSet::new();
    let (mut index, mut texts, mut most_new) = (0, 0_u64, Some(0_u64));
    loop {
        if settings.limit.is_some_and(|limit| index >= limit) {
            break;
        }
        let line = match input.next(Duration::from_secs(1))? {
            Found::Line(line) => line,
            Found::Pending => continue,
            Found::End => break,
        };
        let (head, work) = record::parse(&line, settings.as_text, settings.lenient);
        let known = head.id.as_deref().map(short_hash);
        let twice = settings.compare_names && known.is_some_and(|name| !names.insert(name));
        index += 1;
        if !settings.shard.has(index - 1) {
            continue;
        }
        status.done += 1;
        let unit = head.shape == Shape::Embedding;
        let work = work.and_then(|work| match twice {
            true => Err(Failure::new(
                "duplicate_id",
                "the record has the name of an earlier one, expected another",
            )),
            false => Ok(work),
        });
        let prepared = match work {
            Err(failure) => Err(failure),
            Ok(work) => {
                let made = match &work {
                    Work::Generate(ask) => {
                        let count = (ask.prompts.len() * ask.choices as usize) as u64;
                        texts += count;
                        let each = ask.max_new.or(args.ending.max_new());
                        most_new = most_new
                            .zip(each)
                            .map(|(sum, each)| sum.saturating_add(count * each as u64));
                        let mut prompts = ask.prompts.iter();
                        prompts.try_for_each(|prompt| desk.text(ask, prompt, 0).map(drop))
                    }
                    Work::Score(score) => desk.score(score).map(drop),
                    Work::Embed(inputs) => desk.embed(inputs, unit).map(drop),
                };
                match made {
                    Ok(()) => Ok(()),
                    Err(e) => Err(Failure::of_request(e)?),
                }
            }
        };
        if let Err(failure) = prepared {
            *status.failures.entry(failure.code.to_owned()).or_default() += 1;
            if status.failed() <= TOLD {
                let (code, message) = (failure.code, &failure.message);
                let text = format!("quern: line {}: {code}: {message}", line.number);
                output::note(output::visible(&text));
            }
            if settings.fail_fast {
                break;
            }
        }
    }
    if status.failed() > TOLD {
        output::note(format_args!(
            "quern: {} more records are wrong",
            status.failed() - TOLD
        ));
    }
    if !args.quiet {
        let most = most_new.map_or("as many tokens as the context holds".to_owned(), |n| {
            format!("{n} tokens altogether")
        });
        output::note(format_args!(
            "quern: {} records, {} of them wrong; {} prompt tokens; {texts} texts of at most {most}; nothing was run",
            status.done,
            status.failed(),
            desk.prompt_tokens
        ));
    }
    if args.summary.is_some() {
        summary.write(&json::one_line(&json!({
            "records": status.done,
            "failed": status.failed(),
            "prompt_tokens": desk.prompt_tokens,
            "texts": texts,
            "most_new_tokens": most_new,
            "errors": status.failures,
        }))?)?;
    }
    outcome(&status)
}
