-- What is forgotten, and what is counted, is found without reading a table.

-- How many items there are; moves with the head, as the digest does.
alter table meta add column items integer not null default 0;
update meta set items = (select count(*) from item);

-- Ids that differ in case only.
create index item_by_id_in_any_case on item (product_id collate nocase);

-- Purchases that are over: picked, or cancelled.
create index purchase_by_end on purchase (coalesce(picked_at, settled_at))
  where status = 'cancelled' or picked_at is not null;

create index dead_letter_by_age on dead_letter (received_at);
