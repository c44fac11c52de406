-- Units that go from one store to another: what was asked, and what the stores said of it.
create table transfer (
  number      integer primary key autoincrement,
  transfer_id text    not null unique,
  from_store  text    not null,
  to_store    text    not null,
  status      text    not null check (status in ('requested', 'shipped', 'received', 'rejected')),
  -- Why it was rejected.
  code        text,
  -- JSON of the wire's Transfer.
  body        text    not null,
  created_at  integer not null,
  settled_at  integer check ((settled_at is null) = (status in ('requested', 'shipped'))),
  -- Of what was said last, by either store.
  position    text,
  -- The destination's stock that it was last said with: what a new one does not name has to be announced again.
  stock       integer not null default 0
) strict;

create index transfer_by_status on transfer (status, number);
create index transfer_by_source on transfer (from_store, number);
create index transfer_by_destination on transfer (to_store, number);
create index transfer_on_its_way on transfer (to_store, stock, number) where status = 'shipped';
create index transfer_by_age on transfer (settled_at) where settled_at is not null;

-- Units on their way, line by line.
create table transit (
  product_id  text    not null,
  transfer_id text    not null,
  to_store    text    not null,
  quantity    integer not null check (quantity > 0),
  primary key (product_id, transfer_id)
) strict, without rowid;

create index transit_of on transit (transfer_id);

-- The transfer that a request is about.
alter table request add column transfer_id text;
create index request_pending_by_transfer on request (transfer_id, number)
  where status = 'pending' and transfer_id is not null;

-- Transfers that came with a stock, in order: taken in once it is shown.
create table staged_transfer (
  stock  integer not null references stock,
  number integer not null,
  body   text    not null,
  primary key (stock, number)
) strict, without rowid;

alter table stock add column transfers integer not null default 0;
