-- No transaction grows with the size of a store: a whole state arrives beside the one that is shown, takes its place at
-- once, and what is left to do is done in steps.

-- One state of a store's items. Each store has one that is shown; others are arriving, or are being removed.
create table stock (
  stock         integer primary key autoincrement,
  store_id      text    not null references store,
  state         text    not null check (state in ('current', 'staged', 'discarded')),
  -- Digest of its rows; of the current one `store` has it.
  digest        blob    not null default x'00000000000000000000000000000000',
  -- Of a staged one: its pages so far, the items and outcomes named on them, and where the first page stands.
  pages         integer not null default 0,
  items         integer not null default 0,
  outcomes      integer not null default 0,
  first_epoch   integer not null default 0,
  first_seq     integer not null default 0,
  -- Rows of products in (counted_after, counted_to] are in the chain's totals. '~' is beyond every id.
  counted_after text    not null default '',
  counted_to    text    not null default ''
) strict;

create index stock_discarded on stock (store_id, counted_after) where state = 'discarded';

-- Which stock is shown, and which is arriving (0: none).
alter table store add column stock integer not null default 0;
alter table store add column staged integer not null default 0;
-- The outcomes that came with the stock are being settled; entries wait until then.
alter table store add column installing integer not null default 0 check (installing in (0, 1));
-- Something is left to be done in steps.
alter table store add column steps integer not null default 1 check (steps in (0, 1));
-- Where the state that is shown begins in the ledger: the first page of the snapshot that was installed last.
alter table store add column base_epoch integer not null default 0;
alter table store add column base_seq integer not null default 0;

create index store_with_steps on store (store_id) where steps = 1;

insert into stock (store_id, state, counted_to)
  select store_id, 'current', case retired when 0 then '~' else '' end from store order by store_id;
update store set
  stock = (select stock from stock where stock.store_id = store.store_id),
  base_epoch = state_epoch, base_seq = 1;

create table item_of_stock (
  stock            integer not null references stock,
  product_id       text    not null,
  store_id         text    not null references store,
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
  primary key (stock, product_id),
  check (quantity - reserved - allotted >= 0)
) strict, without rowid;

insert into item_of_stock
  select store.stock, product_id, store_id, name, quantity, reserved, allotted, allotment_wanted, discontinued, low_at,
    low, version, updated_at
  from store join item using (store_id) order by store.stock, product_id;
drop table item;
alter table item_of_stock rename to item;

create index item_by_product on item (product_id, store_id);
create index item_by_any_case on item (stock, product_id collate nocase);

-- Outcomes that came with a stock, in order: settled once it is shown.
create table staged_outcome (
  stock  integer not null references stock,
  number integer not null,
  body   text    not null,
  primary key (stock, number)
) strict, without rowid;

-- Pages of a state that is arriving in the form of before are asked for again: their `snapshot_end` misses them.
drop table page;

-- Pages whose bodies are still kept.
create index event_page on event (store_id, epoch, seq) where type = 'snapshot_page' and body <> '';

-- One row while the chain's totals are summed anew: up to which product that is done.
create table recount (
  counted_to text not null
) strict;

-- Purchases that retiring a store has ended, and that the store has not answered yet.
create index purchase_voided on purchase (store_id, number) where code = 'store_retired' and position is null;
-- Purchases that may be forgotten in time.
create index purchase_by_age on purchase (settled_at)
  where settled_at is not null and (status <> 'confirmed' or picked_at is not null);
