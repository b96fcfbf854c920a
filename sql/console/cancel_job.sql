-- POST cancel-job: id
SELECT jsonb_build_object('cancelled', @extschema@.chat_cancel(($1 ->> 'id')::uuid))
