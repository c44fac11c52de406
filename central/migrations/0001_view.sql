-- Central's database: a copy of every store's stock (the view), the ledger of all events it was made from, and what
-- central itself has promised: purchases and commands.

-- One row a store: where both links stand, and what may be done with it.
create table store (
  store_id        text    not null primary key,
  first_seen_at   integer not null,
  -- Event link: applied up to here. 0 0 zero: nothing yet.
  epoch           integer not null default 0,
  seq             integer not null default 0,
  hash            blob    not null default x'00000000000000000000000000000000',
  -- An epoch that was refused (L7), and one that an operator said to adopt.
  fenced          integer not null default 0,
  adopt           integer,
  -- The view's own digest, and what the last comparison with the store's said.
  digest          blob    not null default x'00000000000000000000000000000000',
  digest_state    text    not null default 'unknown' check (digest_state in ('unknown', 'equal', 'different')),
  -- Set while an epoch's opening state is arriving; the pages lie in `page`.
  opening         integer not null default 0 check (opening in (0, 1)),
  -- Whether any opening ever arrived in full, and the cursor at which the view stands: that of before `opened`
  -- while an opening is arriving (L7, L10).
  complete        integer not null default 0 check (complete in (0, 1)),
  state_epoch     integer not null default 0,
  state_seq       integer not null default 0,
  state_hash      blob    not null default x'00000000000000000000000000000000',
  -- Central's time of the last look after which everything known was applied.
  as_of           integer not null default 0,
  -- Command link: head of the log, and the epoch that the store has said it is ready for (L8).
  command_epoch   integer not null default 0,
  command_seq     integer not null default 0,
  command_hash    blob    not null default x'00000000000000000000000000000000',
  command_acked   integer not null default 0,
  ready_epoch     integer not null default 0,
  -- A digest differed or an entry was not understood; when a resync was last asked for.
  suspect         integer not null default 0 check (suspect in (0, 1)),
  resync_at       integer,
  -- What operators decide.
  online_sale     integer not null default 1 check (online_sale in (0, 1)),
  retired         integer not null default 0 check (retired in (0, 1))
) strict, without rowid;

-- Ids that differ in case only.
create index store_by_any_case on store (store_id collate nocase);

-- The last cursor of each earlier epoch of a store's ledger.
create table lineage (
  store_id text    not null references store,
  epoch    integer not null,
  seq      integer not null,
  hash     blob    not null,
  primary key (store_id, epoch)
) strict, without rowid;

create table item (
  store_id         text    not null references store,
  product_id       text    not null,
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
  primary key (store_id, product_id),
  check (quantity - reserved - allotted >= 0)
) strict, without rowid;

create index item_by_product on item (product_id, store_id);
create index item_by_any_case on item (store_id, product_id collate nocase);

-- Totals of the chain, without retired stores; kept in the transaction that changes an item, and summed anew for the
-- products of each opening state. No checks: a total is derived, and an error in it must not stop a store's events.
create table product (
  product_id text    not null primary key,
  name       text    not null,
  quantity   integer not null,
  reserved   integer not null,
  allotted   integer not null,
  stores     integer not null
) strict, without rowid;

-- Every entry applied, in the order in which it was: the backup of the stores' ledgers.
create table event (
  chain_seq    integer primary key,
  store_id     text    not null references store,
  epoch        integer not null,
  seq          integer not null,
  type         text    not null,
  operation_id text    not null,
  body         text    not null,
  digest       blob,
  hash         blob    not null,
  product_id   text,
  delta        integer not null default 0,
  reference    text,
  received_at  integer not null,
  unique (store_id, epoch, seq)
) strict;

create index event_by_store on event (store_id, chain_seq);
create index event_by_product on event (product_id, chain_seq) where product_id is not null;
create index event_by_reference on event (reference, chain_seq) where reference is not null;

-- Pages of a state that is arriving, laid aside until `snapshot_end`.
create table page (
  store_id text    not null references store,
  epoch    integer not null,
  seq      integer not null,
  body     text    not null,
  primary key (store_id, epoch, seq)
) strict, without rowid;

-- What central asked a store to do, in the order asked, with what became of it.
create table request (
  number       integer primary key autoincrement,
  command_id   text    not null unique,
  store_id     text    not null references store,
  type         text    not null,
  operation    text    not null,
  body         text    not null,
  status       text    not null check (status in ('pending', 'done', 'refused', 'expired')),
  product_id   text,
  purchase_id  text,
  created_at   integer not null,
  settled_at   integer,
  -- JSON of the wire's Outcome once settled, and the store's position of the answer.
  outcome      text,
  position     text
) strict;

create index request_pending on request (store_id, number) where status = 'pending';
create index request_pending_by_type on request (store_id, type) where status = 'pending';
create index request_pending_by_purchase on request (purchase_id, type) where status = 'pending';
create index request_by_store on request (store_id, number);
create index request_by_status on request (status, number);
create index request_by_age on request (settled_at) where settled_at is not null;

-- What the stores answered to commands, by the command's id: what a store that is restored has to know again.
create table outcome (
  store_id   text    not null references store,
  command_id text    not null,
  body       text    not null,
  at         integer not null,
  primary key (store_id, command_id)
) strict, without rowid;

create index outcome_by_age on outcome (at);

-- The command link's log: the requests as sent in each command epoch.
create table command (
  store_id   text    not null references store,
  epoch      integer not null,
  seq        integer not null,
  command_id text    not null,
  type       text    not null,
  body       text    not null,
  hash       blob    not null,
  created_at integer not null,
  primary key (store_id, epoch, seq)
) strict, without rowid;

create table purchase (
  number              integer primary key autoincrement,
  purchase_id         text    not null unique,
  store_id            text    not null references store,
  product_id          text    not null,
  quantity            integer not null check (quantity > 0),
  -- The command of the present attempt.
  attempt             text    not null,
  status              text    not null check (status in ('pending', 'confirmed', 'rejected', 'expired', 'cancelled')),
  -- Code of the rejection or of the reason it ended.
  code                text,
  reference           text,
  customer_id         text,
  created_at          integer not null,
  expires_at          integer not null,
  cancel_requested_at integer,
  settled_at          integer,
  picked_at           integer,
  position            text
) strict;

-- Units on their way to being sold: what `onlineAvailable` leaves out.
create index purchase_pending on purchase (store_id, product_id, quantity) where status = 'pending';
-- How many are open, and of these overdue.
create index purchase_open on purchase (store_id, expires_at) where status = 'pending';
create index purchase_by_status on purchase (status, number);
-- Outcomes of these are kept however old they are.
create index purchase_by_attempt on purchase (attempt);
create index purchase_by_store on purchase (store_id, number);
create index purchase_by_customer on purchase (customer_id, number) where customer_id is not null;
create index purchase_by_reference on purchase (reference, number) where reference is not null;

-- What a caller's key stands for: the effect, kept in the transaction that made it.
create table idempotency (
  key         text    not null primary key,
  fingerprint blob    not null,
  route       text    not null,
  at          integer not null,
  -- 'purchase', 'command', or 'store' for an operator's change, which is answered by the store's present state.
  kind        text    not null check (kind in ('purchase', 'command', 'cancel', 'store')),
  target      text    not null
) strict, without rowid;

create index idempotency_by_age on idempotency (at);

create table dead_letter (
  id           integer primary key autoincrement,
  store_id     text    not null,
  entry_id     text    not null,
  type         text    not null,
  operation_id text    not null,
  body         text    not null,
  reason       text    not null,
  received_at  integer not null
) strict;
