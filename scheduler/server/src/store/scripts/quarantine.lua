-- Quarantine what cannot be read, provided that the caller leads: one field of a hash, or, without a field,
-- a key that is no hash.
-- KEYS[1] leader epoch    KEYS[2] where it is  KEYS[3] quarantine (hash)
-- KEYS[4] forgotten (hash), where it is a job: one of a job group would else begin anew
-- ARGV[1] caller's epoch  ARGV[2] its field, or nothing
-- Returns {'ok'} or {'fenced', epoch}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
if not ARGV[2] then
  redis.call('RENAME', KEYS[2], KEYS[3] .. ' ' .. KEYS[2])
  return {'ok'}
end
local value = redis.call('HGET', KEYS[2], ARGV[2])
if value then
  redis.call('HSET', KEYS[3], KEYS[2] .. ' ' .. ARGV[2], value)
  redis.call('HDEL', KEYS[2], ARGV[2])
  if KEYS[4] and #ARGV[2] == 36 then redis.call('HSET', KEYS[4], ARGV[2], '') end
end
return {'ok'}
