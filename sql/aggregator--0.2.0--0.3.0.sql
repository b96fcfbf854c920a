SELECT aggregator_finish_script();
