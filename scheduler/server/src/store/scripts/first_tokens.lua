-- Keep the first tokens of a cluster, unless it has had any.
-- KEYS[1] tokens    KEYS[2] revision
-- ARGV    id and JSON of each token
-- Returns 1, or 0 with nothing done.
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
redis.call('INCR', KEYS[2])
return 1
