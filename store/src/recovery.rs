//! What an opener finds: an engine, what it holds, and whether that is all that it held.

use crate::book::{Book, Ever};
use crate::dir::{Dir, Was};
use crate::engine::{Engine, Start, Sync};
use crate::error::{Error, Fault};
use crate::limits::HOLES_BATCH_MAX;
use crate::record::Found;
use crate::stats::{Damage, Shared};
use crate::witness::Witness;

pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) book: Book,
    pub(crate) witness: Witness,
    pub(crate) found: Found,
}

/// Opens the engine of a directory and compares what it holds with what was written down about it.
/// Nothing left of something is an error, unless that is accepted; less than there was makes every
/// room doubtful. The clean mark stays until it is known that the store opens.
pub(crate) fn open(
    dir: &Dir,
    was: Was,
    accept_lost: bool,
    shared: &Shared,
) -> Result<Opened, Error> {
    let (witness, said) = Witness::open(dir.path())?;
    let stored = said.unwrap_or_default();
    // Somebody has removed the mark of something that was more than an empty directory.
    let was = if was == Was::New && stored != Ever::default() { Was::Open } else { was };
    let records = said.map(|stored| stored.records);
    let opened = read(dir, if was == Was::New { Start::New } else { Start::Again });
    let (engine, mut book, mut found) = match opened {
        Ok((engine, book, found)) => match book.lost_since(&stored).filter(|lost| lost.all) {
            None => (engine, book, found),
            Some(_) => {
                // Its files are closed before they are moved.
                drop((engine, book));
                begin_anew(dir, records, "nothing is left of it", accept_lost)?
            }
        },
        Err(fault) if was != Was::New && fault.is_damage() => {
            begin_anew(dir, records, &fault.why(), accept_lost)?
        }
        Err(fault) => return Err(Error::Engine(fault.explain("opened", dir.path()))),
    };
    dir.mark_format_once()?;
    found.lost = book.lost_since(&stored);
    let is_all = match was {
        Was::New => book.ever == Ever::default(),
        // Without a witness nobody knows.
        Was::Clean => said.is_some(),
        Was::Open => false,
    };
    found.clean = is_all && found.lost.is_none();
    dir.remove_clean_mark()?;
    if let Some(lost) = found.lost {
        shared.set_damage(Damage::new(dir.path(), lost));
        book.ever.epoch_max = book.ever.epoch_max.max(stored.epoch_max);
        doubt(&engine, &mut book)
            .map_err(|fault| Error::Engine(fault.explain("written", dir.path())))?;
    }
    found.epoch_max = book.ever.epoch_max;
    let said = witness.say(&book.ever).and_then(|()| witness.sync());
    said.map_err(Error::io("writing down what is stored in", dir.path()))?;
    Ok(Opened { engine, book, witness, found })
}

fn read(dir: &Dir, start: Start) -> Result<(Engine, Book, Found), Fault> {
    let engine = Engine::open(dir.path(), start)?;
    let (book, found) = Book::read(&engine.view())?;
    Ok((engine, book, found))
}

/// Begins another history where one was, if that is accepted.
fn begin_anew(
    dir: &Dir,
    records: Option<u64>,
    why: &str,
    is_accepted: bool,
) -> Result<(Engine, Book, Found), Error> {
    if !is_accepted {
        let (dir, why) = (dir.path().to_owned(), why.to_owned());
        return Err(Error::Lost { dir, why, records });
    }
    dir.set_aside()?;
    read(dir, Start::New).map_err(|fault| Error::Engine(fault.explain("opened", dir.path())))
}

/// Writes down that any room may have lost something.
fn doubt(engine: &Engine, book: &mut Book) -> Result<(), Fault> {
    let rooms = book.doubt_all();
    // Without rooms there is still the highest epoch.
    let parts = rooms.chunks(HOLES_BATCH_MAX).chain(rooms.is_empty().then_some(&[][..]));
    for rooms in parts {
        let (mut draft, mut batch) = (book.draft(), engine.batch());
        rooms.iter().for_each(|&room| draft.rewrite(book, room));
        draft.seal(&mut batch);
        engine.commit(batch, Sync::Now)?;
        book.apply(draft);
    }
    Ok(())
}
