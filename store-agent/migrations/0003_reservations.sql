-- Units held for a while. Open reservations, and for the retention those that have ended.
create table reservation (
  number          integer primary key autoincrement,
  reservation_id  text    not null unique,
  status          text    not null check (status in ('open', 'confirmed', 'cancelled', 'expired')),
  -- JSON of the wire's Lines.
  lines           text    not null,
  confirmed_lines text    check ((confirmed_lines is not null) = (status = 'confirmed')),
  reference       text,
  created_at      integer not null,
  expires_at      integer not null,
  settled_at      integer check ((settled_at is null) = (status = 'open'))
) strict;

create index reservation_open on reservation (expires_at) where status = 'open';
create index reservation_by_status on reservation (status, number);
create index reservation_by_age on reservation (settled_at) where settled_at is not null;

-- What open reservations hold, line by line: `item.reserved` is the sum of these.
create table hold (
  product_id     text    not null,
  expires_at     integer not null,
  reservation_id text    not null references reservation (reservation_id),
  quantity       integer not null check (quantity > 0),
  primary key (product_id, expires_at, reservation_id)
) strict, without rowid;

create index hold_of on hold (reservation_id);

-- Items that an entry is about beside the one in `ledger.product_id`.
create table ledger_item (
  product_id text    not null,
  epoch      integer not null,
  seq        integer not null,
  delta      integer not null,
  primary key (product_id, epoch, seq)
) strict, without rowid;

create index ledger_item_by_entry on ledger_item (epoch, seq);
