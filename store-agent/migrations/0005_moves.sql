-- What an item has moved is added up without what counts corrected: the index tells the one from the other.
drop index ledger_by_product;
create index ledger_by_product on ledger (product_id, epoch, seq, type, delta) where product_id is not null;
