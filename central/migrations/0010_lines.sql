-- Purchases of several products from one store, all of them or nothing.

-- Null: one line. Else JSON of the wire's Lines; `product_id` and `quantity` are the first of them.
alter table purchase add column lines text;

-- While such a purchase is pending: its further lines, at the store that is asked.
create table pending_line (
  store_id    text    not null,
  product_id  text    not null,
  purchase_id text    not null,
  quantity    integer not null check (quantity > 0),
  primary key (store_id, product_id, purchase_id)
) strict, without rowid;

create index pending_line_of on pending_line (purchase_id);

-- Turns are taken for sets of products: ids in order, a space between two. There may be many, so they are forgotten in time.
alter table policy_turn rename column product_id to products;
alter table policy_turn add column at integer;
create index policy_turn_by_age on policy_turn (at);
