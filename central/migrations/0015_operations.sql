-- Operations whose effects came with a store's state and that may stand in no entry of the ledger: a human has chosen that
-- state, or the store's log did not reach back. Its pages name them, and who is restored is told of them.
create table named_operation (
  -- The store's `generation` that named it, or a stock that is arriving.
  stock        integer not null,
  operation_id text    not null,
  at           integer not null,
  primary key (stock, operation_id)
) strict, without rowid;

create index named_operation_by_age on named_operation (at);
