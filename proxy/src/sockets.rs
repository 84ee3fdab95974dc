//! Who listens where: sockets are bound while a snapshot is prepared, handed to the workers when it is activated, and
//! kept through swaps as long as a snapshot wants them.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::inherit::{self, Inherited};
use crate::listener;
use crate::metrics::lock;
use crate::snapshot::CompiledListener;

/// The sockets of one address, one per worker.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Unique in the process; workers and snapshots know it by this.
    pub(crate) id: u32,
    pub(crate) local: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Bound; nobody accepts yet. By worker.
    Bound(Vec<Vec<TcpListener>>),
    /// The workers accept. The same sockets, for whoever takes over from this process.
    Listening(Vec<TcpListener>),
    /// The workers closed it.
    Closed,
}

impl Socket {
    /// The sockets by worker, if the workers do not have them yet.
    pub(crate) fn give_out(&self) -> Option<Vec<Vec<TcpListener>>> {
        let mut state = lock(&self.state);
        let State::Bound(sockets) = &*state else { return None };
        // One that cannot be doubled cannot be handed over later, and serves all the same.
        let doubles = sockets.iter().flatten().filter_map(|socket| socket.try_clone().ok()).collect();
        match std::mem::replace(&mut *state, State::Listening(doubles)) {
            State::Bound(sockets) => Some(sockets),
            State::Listening(_) | State::Closed => None,
        }
    }

    /// The sockets that the workers accept on, doubled.
    pub(crate) fn doubles(&self) -> Vec<TcpListener> {
        match &*lock(&self.state) {
            State::Listening(sockets) => sockets.iter().filter_map(|socket| socket.try_clone().ok()).collect(),
            State::Bound(_) | State::Closed => Vec::new(),
        }
    }

    /// Lets go of the sockets before the workers do: a socket that stays open here would take connections for nobody.
    pub(crate) fn close(&self) {
        *lock(&self.state) = State::Closed;
    }

    pub(crate) fn is_listening(&self) -> bool {
        matches!(*lock(&self.state), State::Listening(_))
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(*lock(&self.state), State::Closed)
    }
}

/// All sockets of a process.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    by_address: Mutex<HashMap<String, Weak<Socket>>>,
    next: AtomicU32,
}

impl Sockets {
    /// The sockets for a listener: those that are there already, inherited ones, or new ones.
    ///
    /// # Errors
    /// See [`listener::bind`].
    pub(crate) fn bind(
        &self,
        listener: &CompiledListener,
        threads: usize,
        inherited: &Inherited,
    ) -> io::Result<Arc<Socket>> {
        // Each listener with port 0 gets a port of its own, and keeps it.
        let key = match listener.address.port {
            0 => format!("{} {}", listener.address, listener.name),
            _ => listener.address.to_string(),
        };
        let mut by_address = lock(&self.by_address);
        if let Some(socket) = by_address.get(&key).and_then(Weak::upgrade).filter(|socket| !socket.is_closed()) {
            return Ok(socket);
        }
        let taken = inherited.take(&listener.address);
        let (local, sockets) = match taken.first() {
            Some(first) => (first.local_addr()?, inherit::share_out(taken, threads)?),
            None => listener::bind(&listener.address, threads)
                .map(|(local, sockets)| (local, sockets.into_iter().map(|socket| vec![socket]).collect()))?,
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let socket = Arc::new(Socket { id, local, state: Mutex::new(State::Bound(sockets)) });
        by_address.retain(|_, socket| socket.strong_count() > 0);
        by_address.insert(key, Arc::downgrade(&socket));
        Ok(socket)
    }
}
