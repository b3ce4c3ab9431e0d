// Swagger UI, from BentoML's copy, for the service's own OpenAPI document.
window.SwaggerUIBundle({ url: "docs.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
