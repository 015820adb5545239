//! `--prompt-cache`: what a prompt became is kept in a file, and the next run that begins like it computes only the rest.

use super::memory::mib;
use super::output;
use crate::error::{Error, ErrorKind, Result};
use crate::file::atomic::AtomicFile;
use crate::generate::{Session, Watch};
use crate::model::{Engine, Model};
use quern_kernels::KvType;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file for what a prompt became.
#[derive(Debug, clap::Args)]
pub struct PromptCacheArgs {
    /// Keep what the prompt becomes in this file, and begin with what it has in common with one kept there
    #[arg(long, value_name = "FILE")]
    pub prompt_cache: Option<PathBuf>,
    /// Keep the generated text as well, at the end
    #[arg(long, requires = "prompt_cache")]
    pub prompt_cache_all: bool,
    /// Use the file and do not change it
    #[arg(long, requires = "prompt_cache", conflicts_with = "prompt_cache_all")]
    pub prompt_cache_ro: bool,
}

/// What the file did for a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    /// Bytes read, and how long it took.
    pub read: Option<(u64, Duration)>,
    /// Bytes written, and how long it took.
    pub written: Option<(u64, Duration)>,
}

impl Used {
    /// For a person.
    pub fn text(&self) -> String {
        let part = |done: Option<(u64, Duration)>, verb: &str| match done {
            Some((bytes, time)) => format!(
                "{:.1} MiB {verb} in {:.1} ms",
                mib(bytes),
                time.as_secs_f64() * 1e3
            ),
            None => format!("nothing {verb}"),
        };
        [part(self.read, "read"), part(self.written, "written")].join(", ")
    }
}

/// The file of one run.
pub struct PromptCache<'a> {
    args: &'a PromptCacheArgs,
    path: &'a Path,
    /// Ids and source in the file.
    stored: Option<(Vec<u32>, Option<Vec<u32>>)>,
    used: Used,
    /// Why the file could not be written: said after the text.
    failed: Option<Error>,
}

impl PromptCacheArgs {
    /// Checks that the file can be written, which is better known before a model is loaded.
    ///
    /// # Errors
    /// Io, or usage if something else than a file has its name.
    pub fn check(&self) -> Result<()> {
        match &self.prompt_cache {
            Some(path) if !self.prompt_cache_ro => AtomicFile::create(path).map(drop),
            _ => Ok(()),
        }
    }

    /// The session to begin with, and the file if there is one. A file of another model or one that is damaged is as good as none, which is
    /// said in a note.
    ///
    /// # Errors
    /// Io if the file is there and cannot be read; limit if memory does not suffice.
    pub fn open(&self, engine: &Engine, kv: KvType) -> Result<(Session, Option<PromptCache<'_>>)> {
        let Some(path) = &self.prompt_cache else {
            return Ok((Session::new(), None));
        };
        let mut cache = PromptCache {
            args: self,
            path,
            stored: None,
            used: Used::default(),
            failed: None,
        };
        let exact = engine.kernels().exact();
        let start = Instant::now();
        let length = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok((Session::new(), Some(cache)));
            }
            Err(e) => return Err(Error::io("open", path, &e)),
        };
        let note = |why: &str| output::note(format_args!("quern: note: {why}: not used"));
        match Session::read_from(path, engine.model()) {
            Ok(session) if session.kv() == Some(kv) && session.exact() == Some(exact) => {
                cache.used.read = Some((length, start.elapsed()));
                let source = session.source().map(<[u32]>::to_vec);
                cache.stored = Some((session.ids().to_vec(), source));
                return Ok((session, Some(cache)));
            }
            Ok(session) if session.kv() == Some(kv) => note(&format!(
                "{path:?}: it was made {} --fast-math, this run is {} it",
                if exact { "with" } else { "without" },
                if exact { "without" } else { "with" },
            )),
            Ok(session) => note(&format!(
                "{path:?}: it was made with --kv {}, this run has --kv {}",
                session.kv().map_or("none", KvType::name),
                kv.name()
            )),
            Err(e) if e.kind() == ErrorKind::Invalid => note(&e.to_string()),
            Err(e) => return Err(e),
        }
        Ok((Session::new(), Some(cache)))
    }
}

impl PromptCache<'_> {
    fn save(&mut self, session: &Session, model: &Model) {
        let (ids, source) = (session.ids(), session.source());
        let nothing = ids.is_empty() && source.is_none();
        let same = |(i, s): &(Vec<u32>, Option<Vec<u32>>)| i == ids && s.as_deref() == source;
        if nothing || self.stored.as_ref().is_some_and(same) {
            return;
        }
        let start = Instant::now();
        match session.write_to(self.path, model) {
            Ok(bytes) => self.used.written = Some((bytes, start.elapsed())),
            Err(e) => self.failed = Some(e),
        }
    }

    /// Keeps the text as well, if that was asked for.
    pub fn text_done(&mut self, session: &Session, model: &Model) {
        if self.args.prompt_cache_all {
            self.save(session, model);
        }
    }

    /// What the file did.
    pub fn used(&self) -> Used {
        self.used
    }

    /// Says why the file could not be written.
    ///
    /// # Errors
    /// That.
    pub fn finish(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// Somebody who follows a generation, and the file beside.
pub struct Keeping<'a, 'b> {
    /// Who follows.
    pub watch: &'a mut dyn Watch,
    /// The file, if there is one.
    pub cache: Option<&'a mut PromptCache<'b>>,
    /// The model.
    pub model: &'a Model,
}

impl Watch for Keeping<'_, '_> {
    fn prompt_progress(&mut self, done: usize, all: usize) {
        self.watch.prompt_progress(done, all);
    }

    fn prompt_done(&mut self) {
        self.watch.prompt_done();
    }

    fn chosen(&mut self, id: u32, logits: Option<&[f32]>) {
        self.watch.chosen(id, logits);
    }

    fn text(&mut self, piece: &str) -> Result<()> {
        self.watch.text(piece)
    }

    fn keeps_prompt(&self) -> bool {
        let args = self.cache.as_ref().map(|c| c.args);
        args.is_some_and(|a| !a.prompt_cache_all && !a.prompt_cache_ro)
    }

    fn prompt_held(&mut self, session: &Session) -> Result<()> {
        if let Some(cache) = &mut self.cache {
            cache.save(session, self.model);
        }
        Ok(())
    }

    fn stop_asked(&mut self) -> bool {
        self.watch.stop_asked()
    }
}
