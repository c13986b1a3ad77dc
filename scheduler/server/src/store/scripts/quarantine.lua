-- Set a record aside that cannot be read, provided that the caller leads.
-- KEYS[1] leader epoch    KEYS[2] where it is (hash)  KEYS[3] quarantine (hash)
-- ARGV[1] caller's epoch  ARGV[2] its field
-- Returns {'ok'} or {'fenced', epoch}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
local value = redis.call('HGET', KEYS[2], ARGV[2])
if value then
  redis.call('HSET', KEYS[3], KEYS[2] .. ' ' .. ARGV[2], value)
  redis.call('HDEL', KEYS[2], ARGV[2])
end
return {'ok'}
