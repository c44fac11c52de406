-- An outcome is kept while the units of its purchase wait to be picked: what may be forgotten is found without passing those.
alter table outcome add column waits integer not null default 0 check (waits in (0, 1));
update outcome set waits = 1
  where command_id in (select attempt from purchase where status = 'confirmed' and picked_at is null);
drop index outcome_by_age;
create index outcome_by_age on outcome (at) where waits = 0;
