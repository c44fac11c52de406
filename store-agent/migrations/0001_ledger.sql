-- A store's database: the truth about its stock. `item` is what the ledger adds up to; the ledger's tail that central
-- has not acknowledged is the outbox.

-- One row: who this is, and where both links stand.
create table meta (
  id            integer not null primary key check (id = 1),
  store_id      text    not null,
  -- Head of the ledger, and the digest of the whole stock there.
  epoch         integer not null,
  seq           integer not null,
  hash          blob    not null,
  digest        blob    not null,
  -- Acknowledged by central, of the present epoch.
  acked         integer not null default 0,
  -- Commands executed up to here, and the event epoch that their epoch was opened for: they are executed only while
  -- that is the present one (L8, L9).
  command_epoch integer not null default 0,
  command_seq   integer not null default 0,
  command_hash  blob    not null default x'00000000000000000000000000000000',
  command_for   integer not null default 0
) strict;

-- The last cursor of each earlier epoch, and the first entry of it that could be proven when it ended (L7).
create table lineage (
  epoch integer not null primary key,
  seq   integer not null,
  hash  blob    not null,
  kept  integer not null
) strict;

create table item (
  product_id       text    not null primary key,
  name             text    not null,
  quantity         integer not null check (quantity >= 0 and quantity <= 2000000000),
  reserved         integer not null check (reserved >= 0),
  allotted         integer not null check (allotted >= 0),
  allotment_wanted integer,
  discontinued     integer not null check (discontinued in (0, 1)),
  low_at           integer,
  low              integer not null check (low in (0, 1)),
  version          integer not null check (version >= 1),
  updated_at       integer not null,
  check (quantity - reserved - allotted >= 0)
) strict, without rowid;

-- Everything that happened, in order. Append-only; pruned only far behind what central has acknowledged.
create table ledger (
  epoch        integer not null,
  seq          integer not null,
  type         text    not null,
  operation_id text    not null,
  body         text    not null,
  digest       blob    not null,
  hash         blob    not null,
  product_id   text,
  delta        integer not null default 0,
  reference    text,
  actor        text,
  recorded_at  integer not null,
  primary key (epoch, seq)
) strict, without rowid;

create index ledger_by_product on ledger (product_id, epoch, seq, delta) where product_id is not null;

-- Answers to commands, by the command's id: one that comes again gets its answer again and has no effect.
create table outcome (
  command_id text    not null primary key,
  body       text    not null,
  at         integer not null
) strict, without rowid;

create index outcome_by_age on outcome (at);

-- Online purchases whose units left the shelf: what staff has to pick.
create table purchase (
  number      integer primary key autoincrement,
  purchase_id text    not null unique,
  attempt     text    not null,
  product_id  text    not null,
  quantity    integer not null check (quantity > 0),
  status      text    not null check (status in ('confirmed', 'cancelled')),
  reference   text,
  created_at  integer not null,
  expires_at  integer not null,
  settled_at  integer not null,
  picked_at   integer
) strict;

create index purchase_by_attempt on purchase (attempt);
create index purchase_to_pick on purchase (number) where status = 'confirmed' and picked_at is null;

-- First answers by the caller's key, kept in the transaction of the effect.
create table idempotency (
  key         text    not null primary key,
  fingerprint blob    not null,
  route       text    not null,
  at          integer not null,
  status      integer not null,
  body        text    not null,
  position    text    not null
) strict, without rowid;

create index idempotency_by_age on idempotency (at);

-- Operations that a restore took in with central's state: a write that comes again under its key is known by its
-- operation's id, although the answer was lost with the old database.
create table known_operation (
  id text    not null primary key,
  at integer not null
) strict, without rowid;

create index known_operation_by_age on known_operation (at);

-- Commands that were in their place but not understood.
create table dead_letter (
  id           integer primary key autoincrement,
  entry_id     text    not null,
  type         text    not null,
  operation_id text    not null,
  body         text    not null,
  reason       text    not null,
  received_at  integer not null
) strict;
