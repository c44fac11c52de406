-- Which store has least, and who was asked to create a product: where a new product goes.

-- Sum of the quantities of a stock's rows, beside its digest: of the current stock `store` has it.
alter table store add column units integer not null default 0;
alter table stock add column units integer not null default 0;

update store set units = (select coalesce(sum(quantity), 0) from item where item.stock = store.stock);
update stock set units = (select coalesce(sum(quantity), 0) from item where item.stock = stock.stock)
  where state = 'staged';

-- Products that stores were asked to create, and have not answered.
create index request_pending_create on request (product_id) where status = 'pending' and operation = 'create';
