-- Units that stores set aside for online sale, and which central sells without asking.

-- Of an item's allotment so many units are taken by commands that the store has not answered: what is left is central's to
-- sell, or to release.
create table allotment_taken (
  store_id   text    not null references store,
  product_id text    not null,
  command_id text    not null,
  units      integer not null check (units > 0),
  -- Of these, so many are sold: the buyer has been told so.
  sold       integer not null check (sold between 0 and units),
  primary key (store_id, product_id, command_id)
) strict, without rowid;

create index allotment_taken_by_command on allotment_taken (command_id);

-- Of few items fewer units are to be set aside than are.
create index item_lowered on item (stock, product_id) where allotment_wanted is not null;
