//! Results that go out as files, under a signed link that expires.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempPath;
use tokio::fs::File;
use uuid::Uuid;

use crate::links::{self, LinkError, LinkQuery, LinkSigner, UnixSeconds};
use crate::owner::Owner;

/// How often files whose link has expired are deleted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A link for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalLink {
    pub url: String,
    pub expires: UnixSeconds,
}

/// A result that is being sent.
#[derive(Debug)]
pub struct ExternalFile {
    pub file: File,
    pub bytes: u64,
}

/// Why a link does not lead to a result.
#[derive(Debug)]
pub enum OpenError {
    Link(LinkError),
    Unreadable(io::Error),
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    expires: UnixSeconds,
    /// Deletes the file when the entry is removed.
    file: TempPath,
}

/// The results that went to files, each until its link expires.
#[derive(Debug)]
pub struct ExternalResults {
    directory: PathBuf,
    link_ttl: Duration,
    signer: LinkSigner,
    entries: Mutex<HashMap<Uuid, Entry>>,
}

impl ExternalResults {
    /// Keeps its files in `directory`, and deletes each once its link has expired.
    pub fn start(directory: &Path, link_ttl: Duration) -> Arc<Self> {
        let results = Arc::new(ExternalResults {
            directory: directory.to_owned(),
            link_ttl,
            signer: LinkSigner::new(),
            entries: Mutex::default(),
        });
        let weak = Arc::downgrade(&results);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(results) = weak.upgrade() else { break };
                results.sweep(links::now());
            }
        });
        results
    }

    /// Writes `payload` to a file that `owner` may fetch as `id`. Dropping the future leaves no file behind.
    pub async fn publish(
        &self,
        id: Uuid,
        owner: Owner,
        payload: Bytes,
    ) -> io::Result<ExternalLink> {
        let directory = self.directory.clone();
        let file = tokio::task::spawn_blocking(move || write_file(&directory, &payload)).await??;
        let expires = links::now().saturating_add(self.link_ttl.as_secs());
        self.entries().insert(id, Entry { owner, expires, file });
        Ok(self.link(id, expires))
    }

    /// The link to `id`, for its owner and as long as it is good.
    pub fn find(&self, id: Uuid, owner: &Owner) -> Option<ExternalLink> {
        let entries = self.entries();
        let entry = entries.get(&id)?;
        (entry.owner == *owner && links::now() < entry.expires)
            .then(|| self.link(id, entry.expires))
    }

    /// Opens the result that a link leads to. Any holder of the link may fetch the result, until it
    /// expires.
    pub async fn open(&self, id: Uuid, query: &LinkQuery) -> Result<ExternalFile, OpenError> {
        self.signer.check(id, query, links::now()).map_err(OpenError::Link)?;
        // A genuine link without an entry was swept in this very second.
        let path = self.entries().get(&id).map(|entry| entry.file.to_path_buf());
        let path = path.ok_or(OpenError::Link(LinkError::Expired))?;
        let file = File::open(path).await.map_err(OpenError::Unreadable)?;
        let bytes = file.metadata().await.map_err(OpenError::Unreadable)?.len();
        Ok(ExternalFile { file, bytes })
    }

    fn sweep(&self, now: UnixSeconds) {
        self.entries().retain(|_, entry| now < entry.expires);
    }

    fn link(&self, id: Uuid, expires: UnixSeconds) -> ExternalLink {
        ExternalLink { url: self.signer.link(id, expires), expires }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_file(directory: &Path, payload: &[u8]) -> io::Result<TempPath> {
    let mut file =
        tempfile::Builder::new().prefix("result-").suffix(".arrows").tempfile_in(directory)?;
    file.write_all(payload)?;
    Ok(file.into_temp_path())
}
