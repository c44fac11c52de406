-- Units that go to another store, or come from one: shipped or received within the retention, and those on their way here.
create table transfer (
  number      integer primary key autoincrement,
  transfer_id text    not null unique,
  direction   text    not null check (direction in ('in', 'out')),
  status      text    not null check (status in ('shipped', 'received')),
  -- JSON of the wire's Transfer.
  body        text    not null,
  -- When this store had nothing more to do with it.
  settled_at  integer check ((settled_at is null) = (direction = 'in' and status = 'shipped'))
) strict;

create index transfer_by_direction on transfer (direction, number);
create index transfer_by_status on transfer (status, number);
create index transfer_by_age on transfer (settled_at) where settled_at is not null;
