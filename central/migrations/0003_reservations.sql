-- Units held at stores, as the stores last said, and those asked for that no store has answered yet.
create table reservation (
  number          integer primary key autoincrement,
  reservation_id  text    not null unique,
  store_id        text    not null references store,
  status          text    not null
    check (status in ('pending', 'open', 'confirmed', 'cancelled', 'expired', 'rejected')),
  -- Why it was rejected, or why it ended other than by being confirmed.
  code            text,
  -- JSON of the wire's Lines.
  lines           text    not null,
  confirmed_lines text,
  reference       text,
  created_at      integer not null,
  -- By the store's clock; while it is pending by central's.
  expires_at      integer not null,
  settled_at      integer,
  -- The store's position of what it said last.
  position        text,
  -- The stock of the store's that it was last said with: an older one's are no longer held once a new one is shown.
  stock           integer not null default 0
) strict;

create index reservation_by_store on reservation (store_id, number);
create index reservation_by_status on reservation (status, number);
create index reservation_open on reservation (store_id, stock, number) where status = 'open';
create index reservation_by_reference on reservation (reference, number) where reference is not null;
create index reservation_by_age on reservation (settled_at) where settled_at is not null;

-- The reservation that a request is about.
alter table request add column reservation_id text;
create index request_pending_by_reservation on request (reservation_id, number)
  where status = 'pending' and reservation_id is not null;

-- Reservations that came with a stock, in order: taken in once it is shown.
create table staged_reservation (
  stock  integer not null references stock,
  number integer not null,
  body   text    not null,
  primary key (stock, number)
) strict, without rowid;

alter table stock add column reservations integer not null default 0;

-- Products of events that are about several: found by product as the others are by `event.product_id`.
create table event_item (
  product_id text    not null,
  chain_seq  integer not null references event,
  delta      integer not null,
  primary key (product_id, chain_seq)
) strict, without rowid;
