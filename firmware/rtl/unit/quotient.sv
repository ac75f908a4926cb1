// floor(2^31 numerator / denominator) of a numerator below the denominator, in 31 steps of a bit; 2^31 of one that is
// not below it, as shares of a whole are at most 1. The denominator is there a cycle before the numerator, and holds
// still: it is copied, as one register cannot drive what many of these have.
module unit_quotient (
  input  logic        clk,
  input  logic        load,
  input  logic        step,
  input  logic [31:0] numerator,
  input  logic [31:0] denominator,
  output logic [31:0] quotient
);
  logic [31:0] rest, divisor;
  logic whole;
  wire [32:0] doubled = {rest, 1'b0};
  wire [32:0] difference = doubled - {1'b0, divisor};
  wire fits = doubled >= {1'b0, divisor};

  always_ff @(posedge clk) begin
    divisor <= denominator;
    if (load) begin
      rest <= numerator;
      whole <= numerator >= divisor;
      quotient <= '0;
    end else if (step) begin
      rest <= fits ? difference[31:0] : doubled[31:0];
      quotient <= whole ? 32'h8000_0000 : {1'b0, quotient[29:0], fits};
    end
  end
`ifdef FORMAL
  // What is left stays below the denominator, so that no step overflows.
  logic begun = 1'b0, under_way = 1'b0;
  logic [31:0] denominator_before;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    denominator_before <= denominator;
    if (load) under_way <= begun && numerator < divisor;
    if (begun && (load || under_way)) assume (denominator == denominator_before);
    if (begun) assert (divisor == denominator_before);
    if (under_way) assert (rest < divisor);
  end
`endif
endmodule
