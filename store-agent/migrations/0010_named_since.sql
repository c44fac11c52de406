-- Every operation of an earlier epoch that is in the state and was recorded since then is known: what a state does not name it
-- does not have. Of a database from before nobody can say that; what its log has of earlier epochs is known.
alter table meta add column named_since integer not null default 0;
update meta set named_since = 1 + coalesce((select recorded_at from ledger order by epoch desc, seq desc limit 1), 0);
insert or ignore into known_operation (id, at)
  select operation_id, recorded_at from ledger
  where epoch < (select epoch from meta) and product_id is not null
    and recorded_at > (select named_since - 8 * 24 * 60 * 60 * 1000 from meta);
