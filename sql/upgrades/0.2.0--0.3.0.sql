-- What a fresh installation cannot tell of the way from 0.2.0 to 0.3.0: changes of tables that are there,
-- functions that go, data that is converted.

-- bound: another column of its result.
DROP FUNCTION @extschema@.aggregator_status();
