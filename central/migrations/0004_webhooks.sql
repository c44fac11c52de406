-- Where events are sent.
create table webhook (
  number          integer primary key autoincrement,
  webhook_id      text    not null unique,
  url             text    not null,
  -- JSON arrays; empty: all.
  types           text    not null,
  stores          text    not null,
  -- What deliveries are signed with; the one before still signs for a while.
  secret          blob    not null,
  previous_secret blob,
  previous_until  integer,
  status          text    not null check (status in ('active', 'parked', 'disabled')),
  -- Each event up to this place of the chain is delivered, or its store has a row in `webhook_held`.
  cursor          integer not null,
  -- Moves on with each of an operator's words: what began before changes nothing any more.
  generation      integer not null default 0,
  -- When the first failure was since which nothing was delivered.
  failing_since   integer,
  created_at      integer not null
) strict;

-- Stores whose events are held back behind one that failed, and up to which place of the chain theirs are delivered.
create table webhook_held (
  webhook      integer not null references webhook,
  store_id     text    not null,
  delivered_to integer not null,
  failures     integer not null,
  next_at      integer not null,
  primary key (webhook, store_id)
) strict, without rowid;

-- Attempts, the newest 1,000 of each webhook. Of a test `event_id` is null.
create table webhook_delivery (
  delivery_id integer primary key autoincrement,
  webhook     integer not null references webhook,
  event_id    text,
  attempt     integer not null,
  at          integer not null,
  duration_ms integer not null,
  status_code integer,
  error       text
) strict;

create index webhook_delivery_by_webhook on webhook_delivery (webhook, delivery_id);

-- Kinds of effects become more with each resource: which there are is the code's affair.
create table idempotency_of_any_kind (
  key         text    not null primary key,
  fingerprint blob    not null,
  route       text    not null,
  at          integer not null,
  kind        text    not null,
  target      text    not null
) strict, without rowid;

insert into idempotency_of_any_kind select key, fingerprint, route, at, kind, target from idempotency;
drop table idempotency;
alter table idempotency_of_any_kind rename to idempotency;
create index idempotency_by_age on idempotency (at);
