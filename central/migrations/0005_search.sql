-- What products are called, for search, and which items are low.

-- A row for each name under which a store carries a product: as many as there are products when the stores agree.
-- Written with the item, indexed later. That a name is in use no more may show late.
create table label (
  label      integer primary key autoincrement,
  product_id text    not null,
  name       text    not null,
  unique (product_id, name)
) strict;

-- One row: the labels up to this one are in the index.
create table label_indexed (
  upto integer not null
) strict;

insert into label_indexed (upto) values (0);

-- Parts of words, and beginnings of short ones (runtime/search.rs). It says which labels may be meant, no more.
create virtual table label_gram using fts5 (
  grams, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
);

-- By itself it merges its parts now and then, much at once; they are merged a little with each step of indexing.
insert into label_gram (label_gram, rank) values ('automerge', 0);

insert into label (product_id, name)
  select product_id, name from item union select product_id, name from product order by 1, 2;

create index item_low on item (stock, product_id) where low = 1;
