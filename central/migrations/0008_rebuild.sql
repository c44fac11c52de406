-- The rebuild of the view from the ledger that runs, or the one that ended last: at most one row. Stores are rebuilt
-- one after the other, each beside the stock that is shown.
create table rebuild (
  started_at  integer not null,
  finished_at integer,
  -- Entries to apply, and those applied.
  total       integer not null,
  applied     integer not null default 0,
  -- Stores up to this one, by id, are done.
  done_to     text    not null default '',
  -- The store at work; null: the next one has yet to begin. `stock` is what is built, `staged` a state that arrives in
  -- it.
  store_id    text,
  stock       integer not null default 0,
  staged      integer not null default 0,
  digest      blob    not null default x'00000000000000000000000000000000',
  units       integer not null default 0,
  -- Where the ledger is read from, and up to where it was.
  base_epoch  integer not null default 0,
  base_seq    integer not null default 0,
  seq         integer not null default 0
) strict;

-- Stores that it left as they were, and why.
create table rebuild_left_out (
  store_id text not null primary key,
  reason   text not null
) strict, without rowid;

-- The stock as which the state that was installed last was first shown: reservations name it. A rebuild shows another
-- stock with the same state.
alter table store add column generation integer not null default 0;
update store set generation = stock;
