-- Schema 1 to 2: the leader has a lease. A build of schema 1 takes no notice of leases, so it must not
-- lead any more: it is fenced, and refuses schema 2 when it is started again. Records stay as they are.
-- KEYS[1] schema  KEYS[2] leader epoch  KEYS[3] leader
-- Returns {'ok'} or, when the store is not of schema 1 (any more), {'schema', found}.
local schema = redis.call('GET', KEYS[1]) or ''
if schema ~= '1' then return {'schema', schema} end
redis.call('DEL', KEYS[3])
redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], '2')
return {'ok'}
