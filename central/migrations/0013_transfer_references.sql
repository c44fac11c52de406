-- A list of transfers by what they are for.
create index transfer_by_reference on transfer (body ->> 'reference', number) where body ->> 'reference' is not null;
