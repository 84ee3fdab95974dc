//! Everything the authority remembers: one SQLite file. All SQL of the crate is in this module, by topic.
//!
//! It does not know what a rollout decides or what a signature means; it keeps bytes, rows and their order. One
//! connection writes, several read, so a writer never waits for another and readers never wait at all. Each change is
//! one `BEGIN IMMEDIATE` transaction that is on disk (`synchronous=FULL`) before the call returns.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use sealane_model::ids::Digest;
use sqlx::Sqlite;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteError, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use thiserror::Error;

pub(crate) mod agent;
pub(crate) mod approval;
pub(crate) mod audit;
mod freeze;
pub(crate) mod idempotency;
pub(crate) mod release;
pub(crate) mod revoked;
pub(crate) mod rollout;
pub(crate) mod root;
pub(crate) mod sandbox;
pub(crate) mod token;

/// Connections that read.
const READERS: u32 = 4;
/// How long a connection waits for another process's lock (a backup, a person with a shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The open database.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

/// Why the database did not do what was asked. Nothing was changed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No room for more; reads still work.
    #[error("the disk of the database is full: nothing was changed; free some space and try again")]
    DiskFull,
    /// Another process holds the file for longer than this one waits.
    #[error("the database is locked by another process")]
    Locked,
    /// SQLite refused.
    #[error("the database failed when it {doing}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// SQLite's word.
        #[source]
        source: sqlx::Error,
    },
    /// The migrations of this build do not fit the file, such as after a downgrade.
    #[error("the database does not fit this build")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A row that no build of this program writes.
    #[error("the database is damaged: {what}")]
    Damaged {
        /// Which row, and what is wrong with it.
        what: String,
    },
}

/// A write transaction; dropped without commit, it never happened.
///
/// A connection on which something failed is not used again: SQLite ends the transaction by itself when the disk is
/// full, and nobody need keep track of that.
#[derive(Debug)]
pub(crate) struct Write {
    connection: PoolConnection<Sqlite>,
    is_done: bool,
}

impl Deref for Write {
    type Target = SqliteConnection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        if !self.is_done {
            self.connection.close_on_drop();
        }
    }
}

impl Store {
    /// Opens or makes the database and brings its schema up to date.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, &sqlx::migrate!("./migrations")).await
    }

    async fn open_with(path: &Path, migrations: &Migrator) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(doing("opened"))?;
        migrations.run(&writer).await.map_err(StoreError::Migration)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.create_if_missing(false).read_only(true))
            .await
            .map_err(doing("opened"))?;
        Ok(Self { writer, readers })
    }

    /// Copies a database, in one read transaction, into the new file `to`, whole and without a log beside it. Another
    /// process may write to it meanwhile.
    pub(crate) async fn copy_database(from: &Path, to: &Path) -> Result<(), StoreError> {
        let options = SqliteConnectOptions::new().filename(from).read_only(true).busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(doing("opened"))?;
        let copied = sqlx::query("VACUUM INTO ?").bind(to.to_string_lossy().into_owned()).execute(&pool).await;
        pool.close().await;
        copied.map_err(doing("copied itself"))?;
        // The copy is as durable as the original.
        let synced = std::fs::File::open(to).and_then(|file| file.sync_all());
        synced.map_err(|source| StoreError::Failed { doing: "copied itself", source: source.into() })
    }

    /// Asks SQLite whether the file is sound.
    pub(crate) async fn check_integrity(&self) -> Result<(), StoreError> {
        let (word,): (String,) = sqlx::query_as("PRAGMA integrity_check(1)")
            .fetch_one(self.reader())
            .await
            .map_err(doing("checked itself"))?;
        if word == "ok" { Ok(()) } else { Err(StoreError::Damaged { what: word }) }
    }

    /// Begins a change. Holds the one writer until it is committed or dropped.
    pub(crate) async fn write(&self) -> Result<Write, StoreError> {
        let connection = self.writer.acquire().await.map_err(doing("began a change"))?;
        let mut write = Write { connection, is_done: false };
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *write).await.map_err(doing("began a change"))?;
        Ok(write)
    }

    /// Makes a change durable.
    pub(crate) async fn commit(&self, mut write: Write) -> Result<(), StoreError> {
        sqlx::query("COMMIT").execute(&mut *write).await.map_err(doing("committed a change"))?;
        write.is_done = true;
        Ok(())
    }

    /// Writes everything back into the one file and lets go of it.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    fn reader(&self) -> &SqlitePool {
        &self.readers
    }

    #[cfg(test)]
    pub(crate) fn writer_for_test(&self) -> &SqlitePool {
        &self.writer
    }
}

fn wrap(doing: &'static str, source: sqlx::Error) -> StoreError {
    // SQLite's primary result codes: 13 is SQLITE_FULL, 5 SQLITE_BUSY.
    let code = source.as_database_error().and_then(|error| error.try_downcast_ref::<SqliteError>()).map(primary_code);
    match code {
        Some(13) => StoreError::DiskFull,
        Some(5) => StoreError::Locked,
        _ => StoreError::Failed { doing, source },
    }
}

fn primary_code(error: &SqliteError) -> u32 {
    use sqlx::error::DatabaseError as _;
    error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0) & 0xff
}

/// For `map_err`: says what was being done.
fn doing(doing: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| wrap(doing, source)
}

fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

fn digest(bytes: &[u8], what: &str) -> Result<Digest, StoreError> {
    Digest::from_slice(bytes).ok_or_else(|| StoreError::Damaged { what: format!("{what} is not a digest") })
}

/// SQLite's integers are signed. Numbers of this program stay far below the edge.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
