-- A purchase that is confirmed and asked for once more is sold whether or not anything is set aside for it: until its store has
-- answered its units are nobody else's.
alter table allotment_taken rename to allotment_taken_before;
drop index allotment_taken_by_command;

create table allotment_taken (
  store_id   text    not null references store,
  product_id text    not null,
  command_id text    not null,
  -- Of what is set aside.
  units      integer not null check (units >= 0),
  -- So many are sold, of these and of others: the buyer has been told so.
  sold       integer not null check (sold >= 0),
  primary key (store_id, product_id, command_id)
) strict, without rowid;

create index allotment_taken_by_command on allotment_taken (command_id);

insert into allotment_taken select store_id, product_id, command_id, units, sold from allotment_taken_before;
drop table allotment_taken_before;
