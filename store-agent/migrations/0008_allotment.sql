-- One row: by which rule units are set aside for online sale. None: by none.
create table allotment_rule (
  id      integer not null primary key check (id = 1),
  -- Of the quantity, rounded down.
  percent integer not null check (percent between 0 and 100),
  -- Units, as far as they are there.
  minimum integer not null check (minimum >= 0)
) strict;
