-- Purchases whose store central chooses (B6).

-- By what; null: the shop named the store, or central was set back and asks no other one.
alter table purchase add column policy text check (policy in ('highest-available', 'lowest-latency', 'round-robin'));
-- No attempt is executed later, by Redis's clock. Without a policy: until then another store may say that it took the
-- units, by central's.
alter table purchase add column deadline integer;
-- Stores that have refused, in order, as JSON; null: the shop named the store.
alter table purchase add column refused text;
-- The last of these is the one that the purchase names, and no other one is asked yet.
alter table purchase add column seeking integer not null default 0 check (seeking in (0, 1));

create index purchase_seeking on purchase (number) where seeking = 1;

-- Who was asked last for a product by turns.
create table policy_turn (
  product_id text not null primary key,
  store_id   text not null
) strict, without rowid;
