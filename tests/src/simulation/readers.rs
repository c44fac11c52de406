//! Readers of central's event list over HTTP: each goes on behind the cursor that it has stored, page by page, while everything
//! else happens, and in the end up to the last event. By dice of their own.

use axum::body::Body;
use axum::extract::Request;
use protocol::ids::StoreId;

use super::DENSE;
use super::servers::{OfCentral, Time, id_of};
use super::virtual_world::VirtualWorld;
use crate::Dice;
use crate::judge::Reader;

/// Readers of one seed, at most.
const READERS_MAX: usize = 4;
/// Requests of readers have numbers from here on.
const FIRST: u64 = 1 << 40;

/// Those of one seed.
pub(super) struct Readers {
    dice: Dice,
    happens: bool,
    readers: Vec<(Option<StoreId>, Reader)>,
    last: u64,
}

impl Readers {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x7265_6164_6572);
        let happens = dice.chance(150) | (seed >= DENSE && seed % 8 == 4);
        Self { dice, happens, readers: Vec::new(), last: FIRST }
    }
}

impl VirtualWorld {
    /// Now and then somebody reads on.
    pub(super) fn read_events(&mut self) {
        if !self.readers.happens || !self.readers.dice.chance(if self.calm { 10 } else { 50 }) {
            return;
        }
        let dice = &mut self.readers.dice;
        if self.readers.readers.len() < READERS_MAX && dice.chance(150) {
            let store = dice.pick(&self.stores).filter(|_| dice.clone().chance(300)).cloned();
            self.readers.readers.push((store, Reader::default()));
        }
        let number = dice.below(self.readers.readers.len().max(1) as u64) as usize;
        // He has lost his place, and goes on behind one of before.
        if dice.chance(50)
            && let Some((_, reader)) = self.readers.readers.get_mut(number)
        {
            let turn = dice.roll();
            reader.go_back(turn);
            self.count("readers that went back");
        }
        let size = self.readers.dice.between(1, 12);
        self.read_on(number, size);
    }

    /// Everybody reads on to the end.
    pub(super) fn read_all_events(&mut self) {
        for number in 0..self.readers.readers.len() {
            for _ in 0..10_000 {
                if self.read_on(number, 200) != Some(true) {
                    break;
                }
            }
            let (_, reader) = &self.readers.readers[number];
            if self.central.runs && !self.oracle.has_read_all(reader) {
                self.oracle.break_(format!("P6: reader {number} has not come to the end of the events"));
            }
        }
    }

    /// Central has a file of before: who has read beyond its end goes on behind an earlier cursor.
    pub(super) fn readers_set_back(&mut self) {
        let mut are_any = false;
        for (_, reader) in &mut self.readers.readers {
            are_any |= self.oracle.set_reader_back(reader);
        }
        if are_any {
            self.count("readers whose central was set back");
        }
    }

    /// One request. Says whether there was anything.
    fn read_on(&mut self, number: usize, size: i64) -> Option<bool> {
        let (store, reader) = self.readers.readers.get(number)?;
        if !self.central.runs {
            return None;
        }
        let store = store.clone();
        let of = store.as_ref().map_or(String::new(), |store| format!("&storeId={store}"));
        let uri = format!("/v1/events?after={}&size={size}{of}", reader.cursor());
        let request = Request::builder().uri(uri).header("host", "localhost").body(Body::empty()).expect("a request");
        self.readers.last += 1;
        let new = self.readers.last;
        let sells_offline = self.allotting.sells_offline;
        self.central.http.get_or_insert_with(|| OfCentral::new(new, &self.keys, sells_offline));
        let time = self.clients.time.get_or_insert_with(|| Time::start(self.now));
        time.advance(self.now);
        let (clock, mut next) = (self.central.clock(self.now), id_of(new).as_u128());
        let server = &self.central.http.as_ref()?.server;
        let mut answering = server.ask(request);
        let answer = server.go_on(time, &mut self.central.file, (clock, &mut next), &mut answering);
        let (_, reader) = &mut self.readers.readers[number];
        let read = match answer {
            Some(answer) => self.oracle.reads(reader, store.as_ref().map(StoreId::as_str), size, &answer),
            None => Err("P6: a list of events is waited for".to_owned()),
        };
        match read {
            Ok(0) => Some(false),
            Ok(_) => {
                self.count("pages of events read");
                Some(true)
            }
            Err(broken) => {
                self.oracle.break_(format!("{broken} (reader {number})"));
                None
            }
        }
    }
}
