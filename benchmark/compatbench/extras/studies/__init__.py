"""Why a module survives an upgrade: layers, depth, embeddings, and the paper's claims."""

FUNCTIONS = {
    "analyze_claims": "claims:analyze_claims",
    "analyze_classes": "classes:analyze_classes",
    "analyze_depth": "depth:analyze_depth",
    "analyze_embeddings": "embeddings:analyze_embeddings",
    "analyze_layers": "layers:analyze_layers",
    "retrieve": "retrieval:retrieve",
}
SECTIONS = {
    "classes": "sections:CLASSES",
    "classes answer": "sections:ANSWER",
    "classes words": "sections:WORDS",
}
FIGURES = {"classes": "class_figure:CLASSES_FIGURE"}
