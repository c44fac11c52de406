-- A list of what belongs to an order.
create index purchase_by_reference on purchase (reference, number) where reference is not null;
create index reservation_by_reference on reservation (reference, number) where reference is not null;
