-- Of what the store recorded since then, the state that is shown names every operation of earlier epochs that is in it. Null: of no
-- time that can be said, because the state came from an older agent, or some of its names are forgotten.
alter table store add column named_since integer;
