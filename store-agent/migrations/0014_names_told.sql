-- Of a whole state that is told some of it at a time: the names of operations up to this one are told; null: all of them.
alter table state_told add column named text default '';
