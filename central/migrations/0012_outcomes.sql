-- An outcome belongs to the state that named it, or was followed by it: what a later one does not name is forgotten.

-- The store's `generation` when it was said.
alter table outcome add column stock integer not null default 0;

update outcome set stock = (select generation from store where store.store_id = outcome.store_id);

create index outcome_of_stock on outcome (store_id, stock);
