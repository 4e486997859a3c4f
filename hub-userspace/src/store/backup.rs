//! A copy of a store in memory: for backups, and if the file cannot be written.

use std::{io, ops::Bound, sync::Arc};

use redb::{BackendError, StorageBackend, backends::InMemoryBackend};

/// A file in memory. Its bytes can be read while a database uses it.
#[derive(Debug, Clone, Default)]
pub(super) struct Image(Arc<InMemoryBackend>);

type BackupAnswer<T> = Result<T, io::Error>;

impl Image {
    /// A file with these bytes.
    pub fn of(bytes: &[u8]) -> BackupAnswer<Self> {
        let image = Self::default();
        image.set_len(bytes.len() as u64)?;
        image.write(0, bytes)?;
        Ok(image)
    }

    pub fn bytes(&self) -> BackupAnswer<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len()?).unwrap_or_default()];
        self.read(0, &mut bytes)?;
        Ok(bytes)
    }
}

impl StorageBackend for Image {
    fn len(&self) -> BackupAnswer<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> BackupAnswer<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> BackupAnswer<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> BackupAnswer<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> BackupAnswer<()> {
        self.0.write(offset, data)
    }

    /// A no-op: no other process can access the memory.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<(), BackendError> {
        Ok(())
    }
}
