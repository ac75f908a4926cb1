// Ibex with the hardware unit on its data bus, from 0x40000000 on. The unit reads and writes memory through the same
// port as the core's data, and goes first. FAST as in ibex.sv. 16 MiB of memory, as the controller's image has.
module top #(
  parameter bit FAST = 1'b1,
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned LAYERS = 4
) (input logic clk, input logic rst_n, input logic host_rings);
  logic        instr_req, instr_rvalid, data_req, data_gnt, data_we;
  logic [31:0] instr_addr, instr_rdata, data_addr, data_wdata, data_rdata;
  logic [3:0]  data_be;

  // Whom the core asks, and who answers it.
  logic        unit_request, unit_write, unit_grant, answered, by_unit, interrupt;
  logic [31:0] unit_address, unit_write_data, unit_read, memory_read;
  wire         to_unit = data_addr[31:28] == 4'd4;
  assign data_gnt = data_req & (to_unit ? unit_grant : ~unit_request);
  assign data_rdata = by_unit ? unit_read : memory_read;
  always_ff @(posedge clk) begin
    answered <= rst_n & data_req & data_gnt;
    by_unit <= to_unit;
  end

  memory #(.WORDS(1 << 22)) memory (
    .clk, .rst_n, .instr_req, .instr_addr, .instr_rvalid, .instr_rdata,
    .data_req(unit_request | (data_req & data_gnt & ~to_unit)), .data_we(unit_request ? unit_write : data_we),
    .data_be(unit_request ? 4'hf : data_be), .data_addr(unit_request ? unit_address : data_addr),
    .data_wdata(unit_request ? unit_write_data : data_wdata), .data_rvalid(), .data_rdata(memory_read)
  );

  cptr_turn #(.E(E), .K(K), .LAYERS(LAYERS)) turn (
    .clk, .rst_n, .bus_request(data_req & to_unit), .bus_grant(unit_grant), .bus_write(data_we),
    .bus_address(data_addr[10:0]), .bus_write_data(data_wdata), .bus_read_data(unit_read),
    .memory_request(unit_request), .memory_write(unit_write), .memory_address(unit_address),
    .memory_write_data(unit_write_data), .memory_read_data(memory_read), .host_rings, .interrupt
  );

  ibex #(.FAST(FAST)) core (.data_rvalid(answered), .*);
endmodule
