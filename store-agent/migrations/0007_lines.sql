-- What is bought when it is not one line: JSON of the wire's Lines; `product_id` and `quantity` are the first of them.
alter table purchase add column lines text;
