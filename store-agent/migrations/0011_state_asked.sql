-- The whole state that central has asked for, told some of it at a time.

-- Commands that ask for it, until it is told and they are answered.
create table state_asked (
  command_id text not null primary key,
  -- Where the command stands: `<epoch>-<seq>`.
  entry_id   text not null
) strict, without rowid;

-- One row, once it was begun: how far it is told.
create table state_told (
  id      integer not null primary key check (id = 1),
  -- What the pages since the last whole state are, and how many items they name.
  pages   integer not null,
  items   integer not null,
  -- The items up to this product are told; null: all of them.
  after   text,
  -- Of what has changed since the first of these pages that is told again which the entries up to this one name.
  changed integer not null
) strict;
