"""Stored indexes of embeddings: keep the old model, encode again, or map them to the new one."""

FUNCTIONS = {
    "check_one_model": "questions:check_one_model",
    "check_runtime": "questions:check_runtime",
    "fit_index_map": "index_maps:fit_index_map",
    "load_index_map": "index_maps:load_index_map",
    "measure_index": "measure_index:measure_index",
    "port_index": "port_index:port_index",
}
COMMANDS = ["index_commands"]
